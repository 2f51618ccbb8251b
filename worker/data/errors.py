"""The one error of the data layer."""

from __future__ import annotations


class DataError(Exception):
    """Data that cannot be used: one line naming the folder or file, what was expected and found."""
