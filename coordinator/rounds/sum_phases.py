"""What rounds with a secure sum have of their own: terms, and phases that follow each other."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from coordinator.context import Context
from coordinator.rules.phases import END_OF_PHASE, ROUND_TRANSITIONS
from coordinator.rules.verdicts import deadline_from
from coordinator.store import assignments as assignment_store
from coordinator.store import rounds as round_store
from coordinator.store.tables import FederationRow, RoundRow, WeightsRow
from shared.crash_points import reached
from shared.federation.protection_plan import threshold_of
from shared.rest.schema import RoundPhase, TaskKind
from shared.secure_sum.cards import Card
from shared.secure_sum.messages import Terms

_log = structlog.get_logger()


def write_terms(
    federation: FederationRow,
    kind: TaskKind,
    number: int,
    base: WeightsRow,
    cards: Mapping[str, str],
) -> str:
    """JSON of the terms of a round with this cohort, whose cards are JSON by client name.

    They are written when the round opens, and never again.
    """
    terms = Terms(
        federation=federation.name,
        specification_digest=federation.specification_digest,
        round_number=number,
        kind="train" if kind is TaskKind.TRAIN else "evaluate",
        base_version=base.version,
        base_digest=base.digest,
        threshold=threshold_of(len(cards)),
        cohort=tuple(Card.model_validate_json(cards[name]) for name in sorted(cards)),
    )
    return terms.model_dump_json()


async def begin_next_phase(
    context: Context, federation: FederationRow, round_: RoundRow, reason: str
) -> None:
    """Ends a phase of a secure sum, if it has not ended: asks its members for the next."""
    phase = RoundPhase(round_.phase)
    transition = ROUND_TRANSITIONS[END_OF_PHASE[phase]]
    deadline_at = deadline_from(
        context.clock(), transition.target, context.specification(federation)
    )
    async with context.database.writing() as session:
        moved = await round_store.move(session, round_.id, transition, deadline_at=deadline_at)
        if moved:
            # Whoever is silent while survivors confirm may still give shares.
            if phase is not RoundPhase.CONFIRMING:
                await assignment_store.drop_silent(session, round_.id)
            await assignment_store.offer_again(session, round_.id)
        reached("phase-begun-uncommitted")
    if moved:
        _log.info(
            "phase begun",
            federation=federation.name,
            round=round_.number,
            phase=transition.target.value,
            reason=reason,
        )
    reached("phase-begun")
