"""What ``hyperfl worker check`` finds: rows of one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How one thing is."""

    OK = "ok"
    WARNING = "warning"
    """The worker would run, and somebody should look."""
    FAULT = "fault"
    """The worker would not run, or not with this."""


@dataclass(frozen=True)
class Row:
    """One thing that was looked at.

    Attributes:
        check: what kind of thing.
        verdict: how it is.
        detail: one line for people.
        client: whose it is; empty for the whole worker's.
    """

    check: str
    verdict: Verdict
    detail: str
    client: str = ""


def ok(check: str, detail: str, client: str = "") -> Row:
    """All is well."""
    return Row(check, Verdict.OK, detail, client)


def warning(check: str, detail: str, client: str = "") -> Row:
    """Somebody should look."""
    return Row(check, Verdict.WARNING, detail, client)


def fault(check: str, detail: object, client: str = "") -> Row:
    """It does not work like this; ``detail`` may be the error that says so."""
    return Row(check, Verdict.FAULT, str(detail), client)


def worst(rows: Sequence[Row]) -> Verdict:
    """The worst verdict of all."""
    order = list(Verdict)
    return max((row.verdict for row in rows), key=order.index, default=Verdict.OK)
