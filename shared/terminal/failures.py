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

from shared.terminal.printable import printable
from shared.validation import InvalidInput, first_fault

INVALID_INPUT, FAILED = 2, 1
_LONGEST_MESSAGE = 2000
_WORKER_PACKAGES = ("torch", "torchvision", "timm", "sklearn", "tenacity", "PIL")


def fail(message: str, exit_code: int = FAILED) -> NoReturn:
    """Prints ``error: message`` in one line and exits."""
    typer.echo(f"error: {printable(message)[:_LONGEST_MESSAGE]}", err=True)
    raise typer.Exit(exit_code)


@contextmanager
def one_line_errors(*expected: type[Exception]) -> Iterator[None]:
    """Turns exceptions that a user can cause into one line and an exit code.

    These are :class:`InvalidInput`, what a model refuses, a package that is not installed, what the
    system refuses, and those ``expected`` besides. A ValueError is invalid input where that is
    among these.
    """
    try:
        yield
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in _WORKER_PACKAGES:
            raise
        fail("this command needs the worker's packages: pip install 'hyperfl[worker]'")
    except ValidationError as error:
        fail(str(first_fault(error)), INVALID_INPUT)
    except InvalidInput as error:
        fail(str(error), INVALID_INPUT)
    except Exception as error:
        if isinstance(error, (OSError, *expected)):
            is_invalid = isinstance(error, ValueError) and ValueError in expected
            exit_code = INVALID_INPUT if is_invalid else FAILED
            fail(str(error).partition("\n")[0], exit_code)
        raise
