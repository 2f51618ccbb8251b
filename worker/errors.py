"""What decides how a command of the worker ends."""

from __future__ import annotations


class InvalidInput(Exception):
    """What a person gave cannot be used: one line why. Found before anything ran."""
