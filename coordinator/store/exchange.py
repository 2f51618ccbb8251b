"""Queries on what clients sent for secure sums: messages by phase, shares by receiver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.rules.phases import LIVE_PHASES
from coordinator.store.tables import (
    AssignmentRow,
    ClientRow,
    ExchangeMessageRow,
    ExchangeShareRow,
    RoundRow,
    UpdateRow,
)
from shared.rest.schema import TaskKind
from shared.secure_sum.messages import Terms


@dataclass(frozen=True)
class SealedRow:
    """One member's shares for another, as recorded."""

    sealed: str
    seed: str
    mask_key: str


def terms_of(round_: RoundRow) -> Terms:
    """The terms of a round with a secure sum.

    Those read last are kept, since reading checks every card's signature.
    """
    return _read_terms(round_.terms or "")


@lru_cache(maxsize=8)
def _read_terms(text: str) -> Terms:
    return Terms.model_validate_json(text)


async def find_digest(
    session: AsyncSession, round_id: int, client_id: int, kind: TaskKind
) -> str | None:
    """The digest of what a client sent for a phase; None if it sent nothing."""
    digest: str | None = await session.scalar(
        select(ExchangeMessageRow.digest).where(
            ExchangeMessageRow.round_id == round_id,
            ExchangeMessageRow.client_id == client_id,
            ExchangeMessageRow.kind == kind,
        )
    )
    return digest


async def add(session: AsyncSession, message: ExchangeMessageRow) -> None:
    """Records a message; IntegrityError if the client sent one for this phase already."""
    session.add(message)
    await session.flush()


async def add_shares(
    session: AsyncSession, round_id: int, sender_id: int, shares: dict[str, SealedRow]
) -> None:
    """Records a sender's sealed shares, by the receivers' names, all of the round's cohort."""
    ids = await session.execute(
        select(ClientRow.name, ClientRow.id)
        .join(AssignmentRow, AssignmentRow.client_id == ClientRow.id)
        .where(AssignmentRow.round_id == round_id)
    )
    await session.execute(
        insert(ExchangeShareRow),
        [
            {
                "round_id": round_id,
                "receiver_id": receiver_id,
                "sender_id": sender_id,
                "sealed": shares[name].sealed,
                "seed_check": shares[name].seed,
                "mask_key_check": shares[name].mask_key,
            }
            for name, receiver_id in ids
        ],
    )


async def shares_for(
    session: AsyncSession, round_id: int, receiver_id: int
) -> dict[str, SealedRow]:
    """What the members of a round sealed for one of them, by the senders' names."""
    rows = await session.execute(
        select(
            ClientRow.name,
            ExchangeShareRow.sealed,
            ExchangeShareRow.seed_check,
            ExchangeShareRow.mask_key_check,
        )
        .join(ClientRow, ClientRow.id == ExchangeShareRow.sender_id)
        .where(ExchangeShareRow.round_id == round_id, ExchangeShareRow.receiver_id == receiver_id)
    )
    return {name: SealedRow(*rest) for name, *rest in rows}


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


async def find_message(session: AsyncSession, round_id: int, kind: TaskKind, client: str) -> str:
    """The content of a client's message of a phase, which it has sent."""
    content: str = (
        await session.scalars(
            select(ExchangeMessageRow.content)
            .join(ClientRow, ClientRow.id == ExchangeMessageRow.client_id)
            .where(
                ExchangeMessageRow.round_id == round_id,
                ExchangeMessageRow.kind == kind,
                ClientRow.name == client,
            )
        )
    ).one()
    return content


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
