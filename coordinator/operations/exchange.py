"""The exchange of a secure sum: a post box for the messages of a round's members.

The coordinator checks what it can, so that a member that lies is refused itself and ends no round.
What protects a member is what that checks by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.access.identity import ClientPrincipal, require_admitted
from coordinator.context import Context
from coordinator.errors import (
    LeaseLost,
    MalformedUpdate,
    RoundClosed,
    StateRestored,
    UnknownThing,
    UpdateConflict,
)
from coordinator.rules.phases import EXCHANGE_TASKS
from coordinator.store import assignments as assignment_store
from coordinator.store import clients as client_store
from coordinator.store import exchange as store
from coordinator.store import rounds as round_store
from coordinator.store.exchange import SealedRow
from coordinator.store.tables import AssignmentRow, ExchangeMessageRow, RoundRow
from shared.arrays import digest_bytes
from shared.crash_points import reached
from shared.rest.schema import ExchangeReceipt, RoundPhase, TaskKind
from shared.secure_sum.cards import canonical, to_bytes
from shared.secure_sum.messages import (
    Confirmation,
    ExchangeView,
    Join,
    JoinedMember,
    RecordedJoin,
    Terms,
    Unmasking,
    confirms,
    joined_digest,
    share_check,
    survivors_digest,
)

_PHASES = {kind: phase for phase, kind in EXCHANGE_TASKS.items()}

_log = structlog.get_logger()


async def show(context: Context, principal: ClientPrincipal, round_number: int) -> ExchangeView:
    """What a member of a round's cohort is shown of its exchange.

    Raises:
        UnknownThing: the round has none, or it is over.
        LeaseLost: the client is not in the cohort.
    """
    async with context.database.reading() as session:
        round_ = await round_store.find(session, principal.federation.id, round_number)
        assignment = await assignment_store.find(session, round_.id, principal.client.id)
        if assignment is None:
            raise _not_in_cohort(principal)
        phase = RoundPhase(round_.phase)
        if round_.terms is None or phase not in (RoundPhase.OPEN, *EXCHANGE_TASKS):
            raise UnknownThing(
                f"round {round_number} has no exchange now", round_number=round_number
            )
        if phase is RoundPhase.JOINING:
            return ExchangeView(terms=store.terms_of(round_))
        if phase is RoundPhase.OPEN:
            return ExchangeView(joined=tuple(await _joined(session, round_.id)))
        survivors = tuple(await store.list_survivors(session, round_.id))
        if phase is RoundPhase.CONFIRMING:
            return ExchangeView(survivors=survivors)
        confirmations = await store.list_messages(session, round_.id, TaskKind.CONFIRM)
        shares = await store.shares_for(session, round_.id, principal.client.id)
    return ExchangeView(
        survivors=survivors,
        confirmations={
            name: Confirmation.model_validate_json(one).signature for name, one in confirmations
        },
        sealed={name: row.sealed for name, row in shares.items()},
    )


async def join(
    context: Context, principal: ClientPrincipal, round_number: int, attempt: int, message: Join
) -> ExchangeReceipt:
    """Records that a member joins its round's sum.

    Raises:
        MalformedUpdate: the message is not signed for this round, or lacks a member's shares.
        StateRestored: the client's private state is older than one that joined before.
        UpdateConflict, RoundClosed, LeaseLost: as for an update.
    """

    async def record(session: AsyncSession, round_: RoundRow, terms: Terms) -> str:
        if message.member.client != principal.client.name or not message.member.is_signed_under(
            terms
        ):
            raise MalformedUpdate(
                f"the join is not signed for round {round_number} by the card of client "
                f"{principal.client.name}",
                member="signature",
            )
        if set(message.shares) != set(terms.names):
            raise MalformedUpdate("there must be shares for the whole cohort", member="shares")
        if not await client_store.count_joins(session, principal.client.id, message.generation):
            raise StateRestored(
                f"client {principal.client.name} has joined with a newer private state before",
                generation=message.generation,
            )
        rows = {
            name: SealedRow(one.sealed, one.seed, one.mask_key)
            for name, one in message.shares.items()
        }
        await store.add_shares(session, round_.id, principal.client.id, rows)
        return message.model_dump_json(include={"member", "seed"})

    return await _record(
        context, _Incoming(principal, round_number, attempt, TaskKind.JOIN), message, record
    )


async def confirm(
    context: Context,
    principal: ClientPrincipal,
    round_number: int,
    attempt: int,
    message: Confirmation,
) -> ExchangeReceipt:
    """Records that a member has seen the survivors.

    Raises:
        MalformedUpdate: it has confirmed something else.
        UpdateConflict, RoundClosed, LeaseLost: as for an update.
    """
    # Read before the round is locked: in this phase neither set changes any more.
    async with context.database.reading() as session:
        found = await round_store.find(session, principal.federation.id, round_number)
        joins = await store.list_messages(session, found.id, TaskKind.JOIN)
        names = await store.list_survivors(session, found.id)
    joined = await asyncio.to_thread(_digest_of_joins, joins)

    async def record(_session: AsyncSession, _round: RoundRow, terms: Terms) -> str:
        name = principal.client.name
        if not confirms(terms, name, message.signature, joined, survivors_digest(names)):
            raise MalformedUpdate(
                f"the confirmation is not client {name}'s of the survivors of round {round_number}",
                member="signature",
            )
        return message.model_dump_json()

    return await _record(
        context, _Incoming(principal, round_number, attempt, TaskKind.CONFIRM), message, record
    )


async def unmask(
    context: Context,
    principal: ClientPrincipal,
    round_number: int,
    attempt: int,
    message: Unmasking,
) -> ExchangeReceipt:
    """Records a member's shares: of survivors' seeds, and of the others' mask keys.

    Raises:
        MalformedUpdate: a share is missing, or is not the one that its sender sealed.
        UpdateConflict, RoundClosed, LeaseLost: as for an update.
    """

    async def record(session: AsyncSession, round_: RoundRow, terms: Terms) -> str:
        survivors = set(await store.list_survivors(session, round_.id))
        sealed = await store.shares_for(session, round_.id, principal.client.id)
        if set(message.shares) != set(sealed):
            raise MalformedUpdate(
                "there must be one share of every member that joined", member="shares"
            )
        for sender, share in message.shares.items():
            row = sealed[sender]
            is_seed = sender in survivors
            what, expected = ("seed", row.seed) if is_seed else ("mask-key", row.mask_key)
            found = share_check(terms.digest, sender, principal.client.name, what, to_bytes(share))
            if found != expected:
                raise MalformedUpdate(
                    f"the share of client {sender}'s {what} is not the one that it sealed",
                    member=f"shares.{sender}",
                    expected=expected,
                    found=found,
                )
        return message.model_dump_json()

    return await _record(
        context, _Incoming(principal, round_number, attempt, TaskKind.UNMASK), message, record
    )


@dataclass(frozen=True)
class _Incoming:
    principal: ClientPrincipal
    round_number: int
    attempt: int
    kind: TaskKind


_Record = Callable[[AsyncSession, RoundRow, Terms], Awaitable[str]]


async def _record(
    context: Context,
    incoming: _Incoming,
    message: Join | Confirmation | Unmasking,
    record: _Record,
) -> ExchangeReceipt:
    """Records a message once: the same again has the same receipt, another is refused."""
    principal, kind = incoming.principal, incoming.kind
    digest = digest_bytes(canonical(message.model_dump(mode="json")))
    receipt = ExchangeReceipt(round_number=incoming.round_number, kind=kind, digest=digest)
    async with context.database.writing() as session:
        # The same message may come twice at once: whoever is second sees the first's.
        await client_store.lock(session, principal.client.id)
        await require_admitted(session, principal)
        round_ = await round_store.find(session, principal.federation.id, incoming.round_number)
        recorded = await store.find_digest(session, round_.id, principal.client.id, kind)
        if recorded is not None:
            _check_same(recorded, digest, incoming)
            return receipt
        assignment = await _lock_assignment(session, round_, incoming)
        terms = store.terms_of(round_)
        content = await record(session, round_, terms)
        await store.add(
            session,
            ExchangeMessageRow(
                round_id=round_.id,
                client_id=principal.client.id,
                kind=kind,
                content=content,
                digest=digest,
            ),
        )
        if not await assignment_store.submit(session, assignment.id, incoming.attempt):
            raise LeaseLost(
                f"the work is not leased to attempt {incoming.attempt}",
                attempt=assignment.attempt,
            )
        reached("exchange-recorded-uncommitted")
    reached("exchange-recorded")
    context.driver_wake.set()
    return receipt


async def _lock_assignment(
    session: AsyncSession, round_: RoundRow, incoming: _Incoming
) -> AssignmentRow:
    assignment = await assignment_store.find(session, round_.id, incoming.principal.client.id)
    if assignment is None:
        raise _not_in_cohort(incoming.principal)
    is_open = round_.terms is not None and await round_store.lock_in(
        session, round_.id, _PHASES[incoming.kind]
    )
    if not is_open:
        raise RoundClosed(
            f"round {round_.number} asks for no {incoming.kind.value} now", phase=round_.phase
        )
    return assignment


def _check_same(recorded: str, digest: str, incoming: _Incoming) -> None:
    if recorded != digest:
        raise UpdateConflict(
            f"a different {incoming.kind.value} of client {incoming.principal.client.name} is "
            f"recorded for round {incoming.round_number}",
            expected=recorded,
            found=digest,
        )


def _digest_of_joins(joins: Sequence[tuple[str, str]]) -> str:
    return joined_digest([RecordedJoin.model_validate_json(one).member for _, one in joins])


async def _joined(session: AsyncSession, round_id: int) -> list[JoinedMember]:
    messages = await store.list_messages(session, round_id, TaskKind.JOIN)
    return [RecordedJoin.model_validate_json(content).member for _, content in messages]


def _not_in_cohort(principal: ClientPrincipal) -> LeaseLost:
    return LeaseLost(f"client {principal.client.name} is not in the cohort of the round")
