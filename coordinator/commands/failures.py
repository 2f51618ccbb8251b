"""How a command fails: one line on stderr and exit code 1, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from pydantic import ValidationError


def fail(message: str) -> NoReturn:
    """Prints ``error: message`` and exits with 1."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


@contextmanager
def one_line_errors(*expected: type[Exception]) -> Iterator[None]:
    """Turns exceptions that a user can cause into one line."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        fail(f"{where}: {message}" if where else message)
    except Exception as error:
        if isinstance(error, (OSError, *expected)):
            fail(str(error).partition("\n")[0])
        raise
