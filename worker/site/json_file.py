"""Small JSON files beside a client's private state, each of one model."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from shared.validation import first_fault
from worker.errors import PrivateStateError
from worker.files import write_atomically

Content = TypeVar("Content", bound=BaseModel)


def load(file: Path, model: type[Content]) -> Content | None:
    """What ``file`` says; None if there is none.

    Raises:
        PrivateStateError: it cannot be used; it is left as it is.
    """
    try:
        return model.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise PrivateStateError(f"{file} is damaged: {first_fault(error)}") from error
    except OSError as error:
        raise PrivateStateError(f"{file} cannot be read: {error.strerror}") from error


def save(file: Path, content: BaseModel) -> None:
    """Replaces ``file`` as a whole; only its owner can read it."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(file, content.model_dump_json(indent=2).encode() + b"\n")
