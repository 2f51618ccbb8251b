"""Queries on what clients sent for secure sums: messages by phase, shares by receiver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import and_, bindparam, delete, exists, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.errors import UnknownThing
from coordinator.rules.phases import LIVE_PHASES
from coordinator.store.clients import admitted_by
from coordinator.store.tables import (
    AssignmentRow,
    ClientRow,
    ExchangeMessageRow,
    ExchangeShareRow,
    RoundRow,
    UpdateRow,
)
from shared.rest.schema import TaskKind
from shared.secure_sum.cards import to_bytes, to_text
from shared.secure_sum.messages import CHECK_BYTES, SEALED_BYTES, Sealed, SealedShares


@dataclass(frozen=True)
class Finding:
    """What a client's message finds when it comes.

    Attributes:
        assignment: None if the client is not in the round's cohort.
        digest: of what the client sent for the same phase before; None if it sent nothing.
        is_admitted: whether its credential still holds.
    """

    round_: RoundRow
    assignment: AssignmentRow | None
    digest: str | None
    is_admitted: bool


_FINDING = (
    select(
        RoundRow,
        AssignmentRow,
        ExchangeMessageRow.digest,
        exists().where(ClientRow.id == bindparam("client"), admitted_by(bindparam("token"))),
    )
    .outerjoin(
        AssignmentRow,
        and_(
            AssignmentRow.round_id == RoundRow.id,
            AssignmentRow.client_id == bindparam("client"),
        ),
    )
    .outerjoin(
        ExchangeMessageRow,
        and_(
            ExchangeMessageRow.round_id == RoundRow.id,
            ExchangeMessageRow.client_id == bindparam("client"),
            ExchangeMessageRow.kind == bindparam("kind"),
        ),
    )
    .where(
        RoundRow.federation_id == bindparam("federation"), RoundRow.number == bindparam("number")
    )
)


async def find(
    session: AsyncSession,
    client: ClientRow,
    token_id: int,
    round_number: int,
    kind: TaskKind,
) -> Finding:
    """What a client's message of a kind finds; UnknownThing if the round was never opened."""
    known = {"client": client.id, "token": token_id, "kind": kind}
    row = (
        await session.execute(
            _FINDING, known | {"federation": client.federation_id, "number": round_number}
        )
    ).one_or_none()
    if row is None:
        raise UnknownThing(f"there is no round {round_number}", round_number=round_number)
    return Finding(*row)


async def add(session: AsyncSession, message: ExchangeMessageRow) -> None:
    """Records a message; IntegrityError if the client sent one for this phase already."""
    session.add(message)
    await session.flush()


async def add_shares(
    session: AsyncSession, round_id: int, sender_id: int, shares: Mapping[str, SealedShares]
) -> None:
    """Records a sender's sealed shares, by the receivers' names, all of the round's cohort."""
    ids = await session.execute(
        select(ClientRow.name, ClientRow.id)
        .join(AssignmentRow, AssignmentRow.client_id == ClientRow.id)
        .where(AssignmentRow.round_id == round_id)
        .order_by(ClientRow.id)
    )
    await session.execute(
        insert(ExchangeShareRow),
        [
            {
                "round_id": round_id,
                "sender_id": sender_id,
                "receiver_id": receiver_id,
                "content": b"".join(map(to_bytes, shares[name])),
            }
            for name, receiver_id in ids
        ],
    )


async def shares_for(
    session: AsyncSession, round_id: int, receiver_id: int
) -> dict[str, SealedShares]:
    """What the members of a round sealed for one of them, with checks, by the senders' names."""
    rows = await _list_shares(session, round_id, receiver_id)
    return {name: _sealed_shares(content) for name, content in rows}


async def sealed_for(session: AsyncSession, round_id: int, receiver_id: int) -> dict[str, Sealed]:
    """What the members of a round sealed for one of them, by the senders' names."""
    rows = await _list_shares(session, round_id, receiver_id)
    return {name: to_text(content[:SEALED_BYTES]) for name, content in rows}


async def _list_shares(
    session: AsyncSession, round_id: int, receiver_id: int
) -> list[tuple[str, bytes]]:
    # Senders are listed, so that the key's columns before the receiver are all known.
    senders = select(ExchangeMessageRow.client_id).where(
        ExchangeMessageRow.round_id == round_id, ExchangeMessageRow.kind == TaskKind.JOIN
    )
    rows = await session.execute(
        select(ClientRow.name, ExchangeShareRow.content)
        .join(ClientRow, ClientRow.id == ExchangeShareRow.sender_id)
        .where(
            ExchangeShareRow.round_id == round_id,
            ExchangeShareRow.sender_id.in_(senders),
            ExchangeShareRow.receiver_id == receiver_id,
        )
    )
    return [(name, content) for name, content in rows]


def _sealed_shares(content: bytes) -> SealedShares:
    sealed, checks = content[:SEALED_BYTES], content[SEALED_BYTES:]
    return SealedShares(
        to_text(sealed), to_text(checks[:CHECK_BYTES]), to_text(checks[CHECK_BYTES:])
    )


async def list_messages(
    session: AsyncSession, round_id: int, kind: TaskKind
) -> list[tuple[str, str]]:
    """Client name and content of every message of a phase, in order of name."""
    rows = await session.execute(
        select(ClientRow.name, ExchangeMessageRow.content)
        .join(ClientRow, ClientRow.id == ExchangeMessageRow.client_id)
        .where(ExchangeMessageRow.round_id == round_id, ExchangeMessageRow.kind == kind)
    )
    return sorted((name, content) for name, content in rows)


async def find_messages(
    session: AsyncSession, round_id: int, kind: TaskKind, clients: Sequence[str]
) -> dict[str, str]:
    """The content of some clients' messages of a phase, which they have sent, by name."""
    rows = await session.execute(
        select(ClientRow.name, ExchangeMessageRow.content)
        .join(ClientRow, ClientRow.id == ExchangeMessageRow.client_id)
        .where(
            ExchangeMessageRow.round_id == round_id,
            ExchangeMessageRow.kind == kind,
            ClientRow.name.in_(clients),
        )
    )
    return {row.name: row.content for row in rows}


async def list_senders(session: AsyncSession, round_id: int, kind: TaskKind) -> list[str]:
    """Names of the clients that sent their message of a phase, in order."""
    names = await session.scalars(
        select(ClientRow.name)
        .join(ExchangeMessageRow, ExchangeMessageRow.client_id == ClientRow.id)
        .where(ExchangeMessageRow.round_id == round_id, ExchangeMessageRow.kind == kind)
    )
    return sorted(names)


async def list_survivors(session: AsyncSession, round_id: int) -> list[str]:
    """Names of the clients whose masked updates are recorded, in order."""
    names = await session.scalars(
        select(ClientRow.name)
        .join(AssignmentRow, AssignmentRow.client_id == ClientRow.id)
        .join(UpdateRow, UpdateRow.assignment_id == AssignmentRow.id)
        .where(AssignmentRow.round_id == round_id)
    )
    return sorted(names)


async def spent_rounds(session: AsyncSession) -> Sequence[int]:
    """Rounds that are over, of which messages or shares are still there."""
    over = RoundRow.phase.not_in(LIVE_PHASES)
    rounds = await session.scalars(
        select(ExchangeMessageRow.round_id)
        .join(RoundRow, RoundRow.id == ExchangeMessageRow.round_id)
        .where(over)
        .distinct()
    )
    return rounds.all()


async def forget_round(session: AsyncSession, round_id: int) -> None:
    """Deletes all messages and shares of a round."""
    await session.execute(delete(ExchangeShareRow).where(ExchangeShareRow.round_id == round_id))
    await session.execute(delete(ExchangeMessageRow).where(ExchangeMessageRow.round_id == round_id))
