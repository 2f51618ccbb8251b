"""What is said of a model that cannot be used."""

from __future__ import annotations

from worker.errors import InvalidInput


class ModelError(InvalidInput, ValueError):
    """A feature extractor that cannot be used: one line with what was expected and found."""


class DownloadError(Exception):
    """A hub did not give a backbone's weights: one line with its reason."""
