"""What a model refuses, in the words of an error message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError

MAX_COUNT = 2**31 - 1
"""Of rounds, versions, attempts, clients and sizes: every database has a column for it."""
MAX_EXAMPLES = 2**53
"""Beyond it float64 no longer tells neighbouring integers apart."""

Size = Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT)]
"""Of one axis. Whoever uses it says in its own words that it must be positive."""


class InvalidInput(Exception):
    """What a person gave cannot be used: one line why. Found before anything ran."""


class Fault(NamedTuple):
    """One thing that is wrong: where (a dotted path, empty for the whole), and what."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


def require_printable(text: str) -> str:
    """The same text. Raises ValueError if a character of it would not be seen as it is."""
    if not text.isprintable():
        raise ValueError("every character must be printable")
    return text


def first_fault(error: ValidationError) -> Fault:
    """The first of what a model refuses; never the value that was given."""
    return fault_of(error.errors(include_url=False, include_input=False)[0])


def fault_of(details: Mapping[str, Any]) -> Fault:
    """One of what a model refuses, as pydantic lists it."""
    where = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        return Fault(where, "unknown key")
    return Fault(where, details["msg"].removeprefix("Value error, "))
