"""The exchange of a secure sum: a post box for the messages of a round's members.

The coordinator checks what it can, so that a member that lies is refused itself and ends no round.
What protects a member is what that checks by itself.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.access.identity import ClientPrincipal, credential_ended
from coordinator.context import Context
from coordinator.errors import (
    LeaseLost,
    MalformedUpdate,
    RoundClosed,
    StateRestored,
    UpdateConflict,
)
from coordinator.rules.phases import EXCHANGE_TASKS
from coordinator.store import assignments as assignment_store
from coordinator.store import clients as client_store
from coordinator.store import exchange as store
from coordinator.store import rounds as round_store
from coordinator.store.exchange_views import PhaseView
from coordinator.store.tables import AssignmentRow, ExchangeMessageRow, RoundRow
from shared.arrays import digest_bytes
from shared.crash_points import reached
from shared.rest.schema import ExchangeReceipt, RoundPhase, TaskKind
from shared.secure_sum.cards import canonical, to_bytes
from shared.secure_sum.messages import (
    Confirmation,
    Join,
    Terms,
    Unmasking,
    confirms,
    share_check,
)

_PHASES = {kind: phase for phase, kind in EXCHANGE_TASKS.items()}

_log = structlog.get_logger()


async def view_of(
    context: Context, principal: ClientPrincipal, round_: RoundRow
) -> list[bytes] | None:
    """What a member is shown in the phase that its round was found in; None if that has ended.

    It is an ``ExchangeView`` as JSON, in pieces.
    """
    shown = await context.exchange_views.shown(context.database, round_, RoundPhase(round_.phase))
    if shown is None or shown.phase is not RoundPhase.UNMASKING:
        return None if shown is None else [b"{", shown.members, b"}"]
    async with context.database.reading() as session:
        sealed = await store.sealed_for(session, round_.id, principal.client.id)
    own = json.dumps(sealed, separators=(",", ":")).encode()
    return [b"{", shown.members, b',"sealed":', own, b"}"]


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
        await store.add_shares(session, round_.id, principal.client.id, message.shares)
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
    incoming = _Incoming(principal, round_number, attempt, TaskKind.CONFIRM)
    shown = await _shown(context, incoming)

    async def record(_session: AsyncSession, _round: RoundRow, terms: Terms) -> str:
        name = principal.client.name
        if shown is None or not confirms(
            terms, name, message.signature, shown.joined_digest, shown.survivors_digest
        ):
            raise MalformedUpdate(
                f"the confirmation is not client {name}'s of the survivors of round {round_number}",
                member="signature",
            )
        return message.model_dump_json()

    return await _record(context, incoming, message, record)


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
    incoming = _Incoming(principal, round_number, attempt, TaskKind.UNMASK)
    shown = await _shown(context, incoming)

    async def record(session: AsyncSession, round_: RoundRow, terms: Terms) -> str:
        sealed = await store.shares_for(session, round_.id, principal.client.id)
        if shown is None or set(message.shares) != set(sealed):
            raise MalformedUpdate(
                "there must be one share of every member that joined", member="shares"
            )
        survivors = frozenset(shown.survivors)
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

    return await _record(context, incoming, message, record)


@dataclass(frozen=True)
class _Incoming:
    principal: ClientPrincipal
    round_number: int
    attempt: int
    kind: TaskKind


async def _shown(context: Context, incoming: _Incoming) -> PhaseView | None:
    """What its members are shown in a message's phase; None if the round is in another.

    Read before the round is locked: while the phase lasts it does not change.
    """
    federation_id = incoming.principal.federation.id
    phase = _PHASES[incoming.kind]
    kept = context.exchange_views.kept(federation_id, incoming.round_number, phase)
    if kept is not None:
        return kept
    async with context.database.reading() as session:
        round_ = await round_store.find(session, federation_id, incoming.round_number)
    if not round_.is_protected:
        return None
    return await context.exchange_views.shown(context.database, round_, phase)


async def _terms(context: Context, incoming: _Incoming) -> Terms | None:
    """The terms of a message's round; None if it has no secure sum."""
    federation_id = incoming.principal.federation.id
    kept = context.exchange_views.kept_terms(federation_id, incoming.round_number)
    if kept is not None:
        return kept
    async with context.database.reading() as session:
        round_ = await round_store.find(session, federation_id, incoming.round_number)
    return (
        await context.exchange_views.terms(context.database, round_)
        if round_.is_protected
        else None
    )


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
    terms = await _terms(context, incoming)
    async with context.database.writing() as session:
        # The same message may come twice at once: whoever is second sees the first's.
        await client_store.lock(session, principal.client.id)
        found = await store.find(
            session, principal.client, principal.token_id, incoming.round_number, kind
        )
        if not found.is_admitted:
            raise credential_ended()
        if found.digest is not None:
            _check_same(found.digest, digest, incoming)
            return receipt
        round_ = found.round_
        assignment = await _lock_round(session, found, incoming)
        if terms is None:
            raise RoundClosed(f"round {incoming.round_number} has no secure sum")
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


async def _lock_round(
    session: AsyncSession, found: store.Finding, incoming: _Incoming
) -> AssignmentRow:
    round_, assignment = found.round_, found.assignment
    if assignment is None:
        raise LeaseLost(
            f"client {incoming.principal.client.name} is not in the cohort of the round"
        )
    is_open = round_.is_protected and await round_store.lock_in(
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
