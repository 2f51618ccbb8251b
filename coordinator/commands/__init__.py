"""Subcommands of ``hyperfl`` that need no torch."""
