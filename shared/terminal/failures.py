"""How a command fails: one line on stderr, never a traceback.

The exit code is 2 for input that cannot be used, found before anything ran, as for unknown options;
1 for what went wrong at run time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import typer
from pydantic import ValidationError

from shared.terminal.printable import printable
from shared.validation import InvalidInput, first_fault

INVALID_INPUT, FAILED = 2, 1
_LONGEST_MESSAGE = 2000
_WORKER_PACKAGES = ("torch", "torchvision", "timm", "sklearn", "tenacity", "PIL")


def fail(message: str, exit_code: int = FAILED) -> NoReturn:
    """Prints ``error: message`` in one line and exits."""
    typer.echo(f"error: {printable(message)[:_LONGEST_MESSAGE]}", err=True)
    raise typer.Exit(exit_code)


@dataclass(frozen=True)
class Failure:
    """How a command ends."""

    message: str
    exit_code: int


def failure_of(error: Exception, *expected: type[Exception]) -> Failure | None:
    """The line and the exit code of what a user can cause; None for anything else.

    A user can cause :class:`InvalidInput`, what a model refuses, a package that is not installed,
    what the system refuses, and what is ``expected`` besides. A ValueError is invalid input where
    that is among these.
    """
    if isinstance(error, ImportError):
        if error.name is None or error.name.partition(".")[0] not in _WORKER_PACKAGES:
            return None
        needed = "this command needs the worker's packages: pip install 'hyperfl[worker]'"
        return Failure(needed, FAILED)
    if isinstance(error, ValidationError):
        return Failure(str(first_fault(error)), INVALID_INPUT)
    if isinstance(error, InvalidInput):
        return Failure(str(error), INVALID_INPUT)
    if isinstance(error, (OSError, *expected)):
        is_invalid = isinstance(error, ValueError) and ValueError in expected
        return Failure(str(error).partition("\n")[0], INVALID_INPUT if is_invalid else FAILED)
    return None


@contextmanager
def one_line_errors(*expected: type[Exception]) -> Iterator[None]:
    """Turns exceptions that a user can cause, as of :func:`failure_of`, into a line and a code."""
    try:
        yield
    except Exception as error:
        if (failure := failure_of(error, *expected)) is None:
            raise
        fail(failure.message, failure.exit_code)
