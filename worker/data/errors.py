"""The one error of the data layer."""

from __future__ import annotations

from worker.errors import InvalidInput


class DataError(InvalidInput):
    """Data that cannot be used: one line naming the folder or file, what was expected and found."""
