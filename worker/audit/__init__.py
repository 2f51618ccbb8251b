"""``hyperfl privacy audit``: what a federation's updates give away, attacked and shown."""
