"""What every part of a running coordinator shares: database, settings, clock, and its bells."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import ValidationError

from coordinator.database import Database
from coordinator.delta_chains import DeltaChains
from coordinator.errors import UnreadableSpecification
from coordinator.metrics import CoordinatorMetrics
from coordinator.settings import CoordinatorSettings
from coordinator.tables import FederationRow
from coordinator.upload_slots import UploadSlots
from shared.specification import FederationSpecification
from shared.validation import first_fault

Clock = Callable[[], datetime]
_SPECIFICATIONS_KEPT = 64


def utc_now() -> datetime:
    """The clock of a real coordinator."""
    return datetime.now(UTC)


class Bell:
    """Wakes those who wait for something to change under a key."""

    def __init__(self) -> None:
        self._events: dict[int, asyncio.Event] = {}
        self.closed = False

    def ring(self, key: int) -> None:
        """Wakes everyone who waits for ``key``."""
        event = self._events.pop(key, None)
        if event is not None:
            event.set()

    def listen(self, key: int) -> asyncio.Event:
        """The event of the next ring. Listen first, look second, wait third: no ring is missed."""
        return self._events.setdefault(key, asyncio.Event())

    def close(self) -> None:
        """Wakes everyone for good: the coordinator is about to stop."""
        self.closed = True
        for key in list(self._events):
            self.ring(key)


@dataclass(frozen=True)
class Context:
    """The coordinator's parts, built once in app.py and passed inward."""

    database: Database
    settings: CoordinatorSettings
    clock: Clock
    metrics: CoordinatorMetrics
    tasks_bell: Bell = field(default_factory=Bell)
    """Rung for a federation when its clients may find another answer than before."""
    driver_wake: asyncio.Event = field(default_factory=asyncio.Event)
    delta_chains: DeltaChains = field(default_factory=DeltaChains)
    upload_slots: UploadSlots = field(default_factory=UploadSlots)
    _specifications: OrderedDict[int, FederationSpecification] = field(default_factory=OrderedDict)

    def specification(self, federation: FederationRow) -> FederationSpecification:
        """The parsed specification of a federation; it never changes, so it is kept.

        Raises:
            UnreadableSpecification: what is recorded does not fit this version's rules.
        """
        known = self._specifications.get(federation.id)
        if known is None:
            known = _parse(federation)
            self._specifications[federation.id] = known
            if len(self._specifications) > _SPECIFICATIONS_KEPT:
                self._specifications.popitem(last=False)
        return known


def _parse(federation: FederationRow) -> FederationSpecification:
    try:
        document = json.loads(federation.specification)
    except json.JSONDecodeError as error:
        raise UnreadableSpecification(
            f"what is recorded as the specification of federation {federation.name} is not JSON: "
            f"{error}",
            is_damaged=True,
        ) from error
    try:
        return FederationSpecification.of_record(document)
    except ValidationError as error:
        raise UnreadableSpecification(
            f"this coordinator cannot read the specification of federation {federation.name}: "
            f"{first_fault(error)}",
            is_damaged=False,
        ) from error
