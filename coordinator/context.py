"""What every part of a running coordinator shares: database, settings, clock, and its bells."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from coordinator.clock import Clock
from coordinator.database.transactions import Database
from coordinator.errors import UnreadableSpecification
from coordinator.liveness import Collapse, Pulse
from coordinator.metrics import CoordinatorMetrics
from coordinator.settings import CoordinatorSettings
from coordinator.store.blobs import BlobStore
from coordinator.store.exchange_views import ExchangeViews
from coordinator.store.tables import FederationRow
from coordinator.store.weight_norms import WeightNorms
from shared.federation.specification import FederationSpecification
from shared.validation import first_fault

_SPECIFICATIONS_KEPT = 64


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
class Wait:
    """A poll that waits for work.

    Attributes:
        rung: set when the poll may find another answer than before.
        give_up_at: by the event loop's clock.
        round_number: of the live round that it found first; None if there was none.
    """

    rung: asyncio.Event
    give_up_at: float
    round_number: int | None


@dataclass(frozen=True)
class SpecificationOutline:
    """What lists show of a specification; only ``fault`` where it cannot be read."""

    method: str | None = None
    model: str | None = None
    rounds: int | None = None
    fault: str | None = None


class Specifications:
    """Parsed specifications: they never change, so those used last are kept.

    Args:
        kept: parsed ones at most.
        parse: makes one from its JSON document.
    """

    def __init__(
        self,
        kept: int = _SPECIFICATIONS_KEPT,
        parse: Callable[[Any], FederationSpecification] = FederationSpecification.of_record,
    ) -> None:
        self._kept = kept
        self._parse_document = parse
        self._parsed: OrderedDict[int, FederationSpecification] = OrderedDict()
        self._outlines: dict[int, SpecificationOutline] = {}

    def of(self, federation: FederationRow) -> FederationSpecification:
        """The specification of a federation.

        Raises:
            UnreadableSpecification: what is recorded does not fit this version's rules.
        """
        if federation.id not in self._parsed:
            self._parsed[federation.id] = self._parse(federation)
            if len(self._parsed) > self._kept:
                self._parsed.popitem(last=False)
        self._parsed.move_to_end(federation.id)
        return self._parsed[federation.id]

    def knows(self, federation_id: int) -> bool:
        """Whether :meth:`outline_of` no longer needs a specification."""
        return federation_id in self._outlines

    def outline_of(self, federation: FederationRow) -> SpecificationOutline:
        """What lists show of a federation's specification, or why it cannot be read."""
        if federation.id not in self._outlines:
            self._outlines[federation.id] = _outline(self.of, federation)
        return self._outlines[federation.id]

    async def learn(self, federation: FederationRow) -> None:
        """Makes the outline known off the event loop: a specification may be large."""
        self._outlines[federation.id] = await asyncio.to_thread(_outline, self._parse, federation)

    def _parse(self, federation: FederationRow) -> FederationSpecification:
        try:
            document = json.loads(federation.specification)
        except json.JSONDecodeError as error:
            raise UnreadableSpecification(
                f"the recorded specification of federation {federation.name} is not JSON: {error}",
                is_damaged=True,
            ) from error
        try:
            return self._parse_document(document)
        except ValidationError as error:
            raise UnreadableSpecification(
                f"this coordinator cannot read the specification of federation {federation.name}: "
                f"{first_fault(error)}",
                is_damaged=False,
            ) from error


@dataclass(frozen=True)
class Context:
    """The coordinator's parts, built once in app.py and passed inward."""

    database: Database
    blobs: BlobStore
    settings: CoordinatorSettings
    clock: Clock
    metrics: CoordinatorMetrics
    tasks_bell: Bell = field(default_factory=Bell)
    """Rung for a federation when its clients may find another answer than before."""
    driver_wake: asyncio.Event = field(default_factory=asyncio.Event)
    driver_pulse: Pulse = field(default_factory=Pulse)
    collapse: Collapse = field(default_factory=Collapse)
    specifications: Specifications = field(default_factory=Specifications)
    weight_norms: WeightNorms = field(default_factory=WeightNorms)
    exchange_views: ExchangeViews = field(default_factory=ExchangeViews)

    def specification(self, federation: FederationRow) -> FederationSpecification:
        """See :meth:`Specifications.of`."""
        return self.specifications.of(federation)


def _outline(
    parse: Callable[[FederationRow], FederationSpecification], federation: FederationRow
) -> SpecificationOutline:
    try:
        specification = parse(federation)
    except UnreadableSpecification as error:
        return SpecificationOutline(fault=error.detail)
    return SpecificationOutline(
        specification.training.method,
        specification.training.model,
        specification.round_policy.rounds,
    )
