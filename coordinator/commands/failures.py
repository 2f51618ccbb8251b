"""How a command fails: one line on stderr, never a traceback.

The exit code is 2 for input that cannot be used, found before anything ran, as for unknown options;
1 for what went wrong at run time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from pydantic import ValidationError

from shared.validation import first_fault

INVALID_INPUT, FAILED = 2, 1


def fail(message: str, exit_code: int = FAILED) -> NoReturn:
    """Prints ``error: message`` and exits."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(exit_code)


@contextmanager
def one_line_errors(*expected: type[Exception]) -> Iterator[None]:
    """Turns exceptions that a user can cause into one line."""
    try:
        yield
    except ValidationError as error:
        fail(str(first_fault(error)), INVALID_INPUT)
    except Exception as error:
        if isinstance(error, (OSError, *expected)):
            exit_code = INVALID_INPUT if isinstance(error, ValueError) else FAILED
            fail(str(error).partition("\n")[0], exit_code)
        raise
