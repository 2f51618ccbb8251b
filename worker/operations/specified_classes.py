"""The classes of a federation that is to be specified: how many, and what they are called."""

from __future__ import annotations

from pathlib import Path

from shared.federation.class_names import normal_form
from shared.terminal.text_files import UnreadableText, read_text
from worker.data.image_folder import find_classes
from worker.data.loading import natural_class_names
from worker.errors import ConfigError
from worker.operations.specification_request import SpecificationRequest


def choose_classes(request: SpecificationRequest) -> tuple[int, tuple[str, ...] | None]:
    """Number of classes, and their names; None where only the number is given.

    Raises:
        ConfigError, DataError: nothing says how many there are, or two things say different.
    """
    names = _named(request)
    if names is None and request.num_classes is None:
        if request.dataset is None:
            raise ConfigError(
                "give the names of the classes with --classes or --classes-from, their number with "
                "--num-classes, or a --dataset"
            )
        names = tuple(map(normal_form, natural_class_names(request.dataset, request.data_dir)))
    if names is None:
        return request.num_classes or 0, None
    if request.num_classes not in (None, len(names)):
        raise ConfigError(
            f"--num-classes is {request.num_classes}, and {len(names)} classes are named: "
            f"{', '.join(names)}"
        )
    return len(names), names


def _named(request: SpecificationRequest) -> tuple[str, ...] | None:
    if request.classes is not None and request.classes_from is not None:
        raise ConfigError("give --classes or --classes-from, not both")
    if request.classes_from is not None:
        return tuple(map(normal_form, find_classes(request.classes_from)))
    return None if request.classes is None else parse_classes(request.classes)


def parse_classes(given: str) -> tuple[str, ...]:
    """Names from a file with one in each line, or from a list with commas between them.

    Raises:
        ConfigError: it is neither, or the file cannot be read.
    """
    file = Path(given)
    if file.exists():
        try:
            lines = read_text(file).split("\n")
        except UnreadableText as error:
            raise ConfigError(f"--classes: {error}") from error
        names = [line.strip() for line in lines if line.strip()]
    else:
        names = [name.strip() for name in given.split(",")]
    if len(names) < 2:
        raise ConfigError(
            f"--classes must be an existing file with a name in each line, or names with commas "
            f"between them, not {given}"
        )
    return tuple(map(normal_form, names))
