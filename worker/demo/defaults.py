"""What a demo takes where it is not told."""

from __future__ import annotations

_MODELS = {"digits": "cnn-mnist", "fashion-mnist": "cnn-mnist", "emnist": "cnn-mnist"}


def default_model(dataset: str) -> str:
    """The feature extractor for a data set's images."""
    return _MODELS.get(dataset, "cnn-cifar")
