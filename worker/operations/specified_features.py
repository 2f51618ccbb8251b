"""The features of a federation that is to be specified: how many, and what they are called."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from shared.federation.features import Feature, total_width
from shared.terminal.text_files import UnreadableText, read_text
from shared.validation import first_fault
from worker.errors import ConfigError
from worker.operations.specification_request import SpecificationRequest


def choose_features(
    request: SpecificationRequest,
) -> tuple[tuple[int], tuple[Feature, ...] | None] | None:
    """The shape of the model's input, and its features; None for a federation of images.

    The features are None where only their number is given.

    Raises:
        ConfigError: two things say different, or names cannot be used.
    """
    if request.features is None and request.num_features is None:
        return None
    if request.image_shape is not None or request.dataset is not None:
        other = "--image-shape" if request.image_shape is not None else "--dataset"
        raise ConfigError(f"--features and --num-features are for rows, and {other} for images")
    if request.features is None:
        return (request.num_features or 0,), None
    features = parse_features(request.features)
    if request.num_features not in (None, len(features)):
        raise ConfigError(
            f"--num-features is {request.num_features}, and {len(features)} features are named"
        )
    return (total_width(features),), features


def parse_features(given: str) -> tuple[Feature, ...]:
    """Features from a file with one in each line, or from a list with commas between them.

    Each is a name, for numbers, or ``name=a|b|c`` with its categories.

    Raises:
        ConfigError: a file cannot be read, or a feature cannot be used; names it.
    """
    file = Path(given)
    if file.exists():
        try:
            lines = read_text(file).split("\n")
        except UnreadableText as error:
            raise ConfigError(f"--features: {error}") from error
        entries = [line.strip() for line in lines if line.strip()]
    else:
        entries = [entry.strip() for entry in given.split(",")]
    return tuple(map(_parse, entries))


def _parse(entry: str) -> Feature:
    name, equals, categories = entry.partition("=")
    named = [category.strip() for category in categories.split("|")] if equals else None
    try:
        return Feature.model_validate({"name": name.strip(), "categories": named})
    except ValidationError as error:
        raise ConfigError(
            f"--features: expected an existing file, or names such as age,sex=f|m, and found "
            f"{entry!r}: {first_fault(error)}"
        ) from error
