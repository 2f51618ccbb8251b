"""Queries on clients and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BindParameter, and_, delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.errors import UnknownThing
from coordinator.store.tables import AssignmentRow, ClientRow, FederationRow, RoundRow, TokenRow
from coordinator.store.tokens import exists as exists_token
from shared.rest.schema import ClientState
from shared.rest.state_generation import StateGeneration
from shared.rest.worker_about import WorkerAbout


async def lock(session: AsyncSession, client_id: int) -> ClientRow:
    """The client as it is now; nobody changes it or its tokens until this transaction ends."""
    row = await session.scalars(
        select(ClientRow)
        .where(ClientRow.id == client_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return row.one()


def admitted_by(token_id: int | BindParameter[int]) -> Any:
    """Condition on a client: it is enrolled, and this credential of it has not ended."""
    return and_(
        ClientRow.state == ClientState.ENROLLED,
        exists().where(TokenRow.id == token_id, TokenRow.client_id == ClientRow.id),
    )


async def is_admitted(session: AsyncSession, client_id: int, token_id: int) -> bool:
    """Whether the client is enrolled, and this credential of it has not ended."""
    query = select(ClientRow.id).where(ClientRow.id == client_id, admitted_by(token_id))
    return await session.scalar(query) is not None


async def begin_to_use(
    session: AsyncSession, client_id: int, token: TokenRow, now: datetime
) -> bool:
    """Notes the first use of a client's credential: it enrols the client that was invited.

    It ends the credentials issued before it, and the enrolment token. False if the credential was
    replaced meanwhile: then it ends nothing.
    """
    client = await lock(session, client_id)
    if not await exists_token(session, token):
        return False
    if client.state == ClientState.INVITED:
        await set_state(session, client_id, ClientState.ENROLLED, now)
        await _forget_generation(session, client_id)
    await session.execute(
        update(TokenRow)
        .where(TokenRow.id == token.id, TokenRow.first_used_at.is_(None))
        .values(first_used_at=now)
    )
    await session.execute(
        delete(TokenRow).where(TokenRow.client_id == client_id, TokenRow.id < token.id)
    )
    return True


async def _forget_generation(session: AsyncSession, client_id: int) -> None:
    """Whoever is invited anew may have lost its private state, and begins another."""
    await session.execute(
        update(ClientRow)
        .where(ClientRow.id == client_id)
        .values(state_generation=None, state_mark=None)
    )


async def find(session: AsyncSession, federation: FederationRow, name: str) -> ClientRow:
    """The client called ``name``; UnknownThing if there is none."""
    row = await session.scalar(
        select(ClientRow).where(ClientRow.federation_id == federation.id, ClientRow.name == name)
    )
    if row is None:
        raise UnknownThing(f"federation {federation.name} has no client {name}", client=name)
    return row


async def find_or_add(
    session: AsyncSession, federation: FederationRow, name: str, now: datetime
) -> ClientRow:
    """The client called ``name``, invited now if it is new.

    The caller has locked the federation, so that no two clients get the same number.
    """
    query = select(ClientRow).where(
        ClientRow.federation_id == federation.id, ClientRow.name == name
    )
    row = await session.scalar(query)
    if row is None:
        largest = await session.scalar(
            select(func.max(ClientRow.number)).where(ClientRow.federation_id == federation.id)
        )
        row = ClientRow(
            federation_id=federation.id,
            name=name,
            number=0 if largest is None else largest + 1,
            state=ClientState.INVITED,
            invited_at=now,
        )
        session.add(row)
        await session.flush()
    return row


async def list_all(session: AsyncSession, federation_id: int) -> Sequence[ClientRow]:
    """Clients in order of name."""
    query = (
        select(ClientRow).where(ClientRow.federation_id == federation_id).order_by(ClientRow.name)
    )
    return (await session.scalars(query)).all()


async def note_update(session: AsyncSession, client_id: int, num_examples: int | None) -> None:
    """Counts an update that is recorded; ``num_examples`` is None where nobody may know it."""
    await session.execute(
        update(ClientRow)
        .where(ClientRow.id == client_id)
        .values(updates_recorded=ClientRow.updates_recorded + 1, num_examples=num_examples)
    )


async def note_decline(session: AsyncSession, client_id: int, reason: str) -> None:
    """Keeps why a client has declined a round."""
    await session.execute(
        update(ClientRow).where(ClientRow.id == client_id).values(last_reason=reason)
    )


async def list_members(
    session: AsyncSession,
    federation_id: int,
    *,
    only_with_card: bool = False,
    only_after_poll: bool = False,
) -> dict[str, str | None]:
    """Clients that may take part, and their cards, by name.

    Args:
        session: to read in.
        federation_id: of the federation.
        only_with_card: leaves out those that have shown none.
        only_after_poll: leaves out those that have not asked for work since they enrolled.
    """
    query = select(ClientRow.name, ClientRow.card).where(
        ClientRow.federation_id == federation_id, ClientRow.state == ClientState.ENROLLED
    )
    if only_with_card:
        query = query.where(ClientRow.card.is_not(None))
    if only_after_poll:
        query = query.where(ClientRow.last_seen_at >= ClientRow.enrolled_at)
    members: dict[str, str | None] = {}
    for name, card in await session.execute(query):
        members[name] = card
    return members


async def set_card(session: AsyncSession, client_id: int, card: str) -> bool:
    """Records a client's card; whether it is another than before, whose joins count from 0."""
    changed = await session.scalar(
        update(ClientRow)
        .where(ClientRow.id == client_id, ClientRow.card.is_distinct_from(card))
        .values(card=card, joins=0)
        .returning(ClientRow.id)
    )
    return changed is not None


async def count_joins(session: AsyncSession, client_id: int, joins: int) -> bool:
    """Notes how many joins a client's private state counts; false if it had counted as many."""
    counted = await session.scalar(
        update(ClientRow)
        .where(ClientRow.id == client_id, ClientRow.joins < joins)
        .values(joins=joins)
        .returning(ClientRow.id)
    )
    return counted is not None


async def note_generation(session: AsyncSession, client_id: int, told: StateGeneration) -> bool:
    """Notes how far a client's private state has come; false if another has come farther."""
    column = ClientRow.state_generation
    is_known = and_(column == told.generation, ClientRow.state_mark == told.mark)
    noted = await session.scalar(
        update(ClientRow)
        .where(
            ClientRow.id == client_id,
            or_(column.is_(None), column < told.generation, is_known),
        )
        .values(state_generation=told.generation, state_mark=told.mark)
        .returning(ClientRow.id)
    )
    return noted is not None


async def newest_leased_round(session: AsyncSession, client_id: int) -> int:
    """The number of the newest round that a client has had work in; 0 if there was none."""
    query = (
        select(func.max(RoundRow.number))
        .join(AssignmentRow, AssignmentRow.round_id == RoundRow.id)
        .where(AssignmentRow.client_id == client_id, AssignmentRow.attempt > 0)
    )
    return await session.scalar(query) or 0


async def set_state(
    session: AsyncSession, client_id: int, state: ClientState, enrolled_at: datetime | None
) -> None:
    """Writes a client's state."""
    await session.execute(
        update(ClientRow)
        .where(ClientRow.id == client_id)
        .values(state=state, enrolled_at=enrolled_at)
    )


async def mark_seen(
    session: AsyncSession, client_id: int, now: datetime, about: WorkerAbout
) -> None:
    """Writes when a client was last heard of, and what its worker said of itself then."""
    await session.execute(
        update(ClientRow)
        .where(
            ClientRow.id == client_id,
            or_(ClientRow.last_seen_at.is_(None), ClientRow.last_seen_at <= now),
        )
        .values(last_seen_at=now, **about.model_dump())
    )
