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

from shared.plans import UnknownPresetError
from shared.validation import first_fault
from worker.errors import InvalidInput

INVALID_INPUT, FAILED = 2, 1
_EXTRA_PACKAGES = ("opacus", "torch", "torchvision", "timm", "sklearn", "tenacity", "PIL")


def fail(message: str, exit_code: int = FAILED) -> NoReturn:
    """Prints ``error: message`` and exits."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(exit_code)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns what a user can cause into one line and an exit code."""
    try:
        yield
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA_PACKAGES:
            raise
        fail("this command needs the worker's packages: pip install 'hyperfl[worker]'")
    except ValidationError as error:
        fail(str(first_fault(error)), INVALID_INPUT)
    except (InvalidInput, UnknownPresetError) as error:
        fail(str(error), INVALID_INPUT)
    except Exception as error:
        if type(error).__module__.startswith(("worker.", "shared.")) or isinstance(error, OSError):
            fail(str(error))
        raise
