"""The ``hyperfl`` command, and how its commands fail, log and print."""
