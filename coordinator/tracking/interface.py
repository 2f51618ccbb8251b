"""What every format does with a federation's rounds."""

from __future__ import annotations

from typing import Any, Protocol

Record = dict[str, Any]
"""A federation or a round as JSON: ``FederationView`` or ``RoundView``."""


class Tracker(Protocol):
    """Takes a federation and its closed rounds, in order."""

    def begin(self, federation: Record) -> None:
        """Names the federation, and what was agreed."""

    def add(self, round_: Record) -> None:
        """Takes one closed round, with every client's part in it."""

    def flush(self) -> None:
        """Shows readers what was taken until now."""

    def end(self, federation: Record) -> None:
        """Takes the federation as it is after the last round that was added."""

    def discard(self) -> None:
        """Takes back what was written."""
