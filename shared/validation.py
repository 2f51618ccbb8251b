"""What a model refuses, in the words of an error message."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import ValidationError


class Fault(NamedTuple):
    """One thing that is wrong: where (a dotted path, empty for the whole), and what."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


def first_fault(error: ValidationError) -> Fault:
    """The first of what a model refuses; never the value that was given."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return Fault(where, "unknown key")
    return Fault(where, first["msg"].removeprefix("Value error, "))
