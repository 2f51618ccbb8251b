"""What the members of a round's secure sum are shown alike: made for the first, kept for the rest.

None of it changes while the round is in the phase that shows it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.database.transactions import Database
from coordinator.store import exchange
from coordinator.store import rounds as round_store
from coordinator.store.tables import RoundRow
from shared.rest.schema import RoundPhase, TaskKind
from shared.secure_sum.messages import (
    Confirmation,
    ExchangeView,
    RecordedJoin,
    Terms,
    joined_digest,
    survivors_digest,
)

_FEDERATIONS_KEPT = 16


@dataclass(frozen=True)
class PhaseView:
    """What all members are shown in a phase, and the digests that they confirm then.

    Attributes:
        members: of the view as a JSON object, without its braces and what is sealed for one member.
        survivors: their names in order; none before they are confirmed.
        joined_digest: of the members that joined; empty before survivors are confirmed.
        survivors_digest: of the survivors' names; empty before they are confirmed.
    """

    phase: RoundPhase
    members: bytes
    survivors: tuple[str, ...] = ()
    joined_digest: str = ""
    survivors_digest: str = ""


@dataclass
class _Kept:
    """Of a federation's newest round that was asked for."""

    round_number: int
    terms: Terms
    shown: PhaseView | None = None


@dataclass(frozen=True)
class _Recorded:
    """What the database has of a phase, as it was written."""

    joins: Sequence[str] = ()
    survivors: Sequence[str] = ()
    confirmations: Sequence[tuple[str, str]] = ()


class ExchangeViews:
    """Terms and views of each federation's live round.

    All is parsed with no session open, so every call is to be made with none.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._parsing, self._reading = asyncio.Lock(), asyncio.Lock()

    def kept_terms(self, federation_id: int, round_number: int) -> Terms | None:
        """The terms of a round, if somebody has asked for them."""
        kept = self._kept.get(federation_id)
        return None if kept is None or kept.round_number != round_number else kept.terms

    async def terms(self, database: Database, round_: RoundRow) -> Terms:
        """The terms of a round with a secure sum, every card of which is checked."""
        return (await self._of(database, round_)).terms

    def kept(self, federation_id: int, round_number: int, phase: RoundPhase) -> PhaseView | None:
        """What members of a round are shown in a phase, if somebody was shown it."""
        kept = self._kept.get(federation_id)
        if kept is None or kept.round_number != round_number or kept.shown is None:
            return None
        return kept.shown if kept.shown.phase is phase else None

    async def shown(
        self, database: Database, round_: RoundRow, phase: RoundPhase
    ) -> PhaseView | None:
        """What members are shown in a phase; None if the round is no longer in it.

        Whoever is first reads, and the others wait for that.
        """
        async with self._reading:
            shown = self.kept(round_.federation_id, round_.number, phase)
            if shown is not None:
                return shown
            kept = await self._of(database, round_)
            async with database.reading() as session:
                recorded = await _read(session, round_.id, phase)
                # Looked at last: what was read before was all there.
                if not await round_store.is_in(session, round_.id, phase):
                    return None
            kept.shown = await asyncio.to_thread(_parse, phase, kept.terms, recorded)
            return kept.shown

    async def _of(self, database: Database, round_: RoundRow) -> _Kept:
        async with self._parsing:
            newest = kept = self._kept.get(round_.federation_id)
            if kept is not None and kept.round_number == round_.number:
                return kept
            async with database.reading() as session:
                text = await session.scalar(select(RoundRow.terms).where(RoundRow.id == round_.id))
            # In a thread: each of a cohort's cards has a signature to check.
            terms = await asyncio.to_thread(Terms.model_validate_json, text or "")
            kept = _Kept(round_.number, terms)
            # An update of an earlier round may be sent again at any time.
            if newest is None or newest.round_number < round_.number:
                self._kept[round_.federation_id] = kept
                if len(self._kept) > _FEDERATIONS_KEPT:
                    self._kept.popitem(last=False)
            return kept


async def _read(session: AsyncSession, round_id: int, phase: RoundPhase) -> _Recorded:
    if phase is RoundPhase.JOINING:
        return _Recorded()
    joins = await exchange.list_messages(session, round_id, TaskKind.JOIN)
    contents = [content for _, content in joins]
    if phase is RoundPhase.OPEN:
        return _Recorded(contents)
    survivors = await exchange.list_survivors(session, round_id)
    if phase is not RoundPhase.UNMASKING:
        return _Recorded(contents, survivors)
    confirmations = await exchange.list_messages(session, round_id, TaskKind.CONFIRM)
    return _Recorded(contents, survivors, confirmations)


def _parse(phase: RoundPhase, terms: Terms, recorded: _Recorded) -> PhaseView:
    if phase is RoundPhase.JOINING:
        return PhaseView(phase, _members(ExchangeView(terms=terms)))
    joined = tuple(RecordedJoin.model_validate_json(one).member for one in recorded.joins)
    if phase is RoundPhase.OPEN:
        return PhaseView(phase, _members(ExchangeView(joined=joined)))
    confirmations = {
        name: Confirmation.model_validate_json(content).signature
        for name, content in recorded.confirmations
    }
    survivors = tuple(recorded.survivors)
    view = ExchangeView(survivors=survivors, confirmations=confirmations)
    return PhaseView(
        phase, _members(view), survivors, joined_digest(joined), survivors_digest(survivors)
    )


def _members(view: ExchangeView) -> bytes:
    return view.model_dump_json(exclude={"sealed"})[1:-1].encode()
