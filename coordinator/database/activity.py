"""What a process has had to do with its database, counted as it goes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from coordinator.database.outages import Outage


@dataclass
class DatabaseActivity:
    """Counts since the start.

    Attributes:
        committed: transactions that ended well, by whether they wrote.
        failed: transactions that an error of the database ended, by whether they wrote.
        outages: transactions that an outage ended, by what it was.
        begun: transactions that have begun.
        waited_seconds: in all, from wanting a transaction to its beginning: for a turn to write,
            for a free connection, and for the database.
    """

    committed: Counter[bool] = field(default_factory=Counter)
    failed: Counter[bool] = field(default_factory=Counter)
    outages: Counter[Outage] = field(default_factory=Counter)
    begun: int = 0
    waited_seconds: float = 0.0
