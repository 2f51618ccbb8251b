"""The ``hyperfl worker`` commands."""
