"""Private states of clients: one that is older than what its client has sent is refused."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.access.identity import ClientPrincipal
from coordinator.context import Context
from coordinator.errors import StateRestored
from coordinator.store import clients as store
from coordinator.store.tables import ClientRow
from shared.rest.state_generation import StateGeneration


async def check(context: Context, principal: ClientPrincipal, told: StateGeneration | None) -> None:
    """Whether a client may go on with the private state that it tells of.

    Raises:
        StateRestored: it came from a backup, or another worker went on from a copy of it.
    """
    if told is None or _may_follow(told, principal.client):
        return
    async with context.database.reading() as session:  # it may have enrolled anew with this request
        await check_again(session, principal, told)


async def check_again(
    session: AsyncSession, principal: ClientPrincipal, told: StateGeneration | None
) -> None:
    """The same, by what is recorded now and not when the request began.

    Raises:
        StateRestored: as :func:`check`.
    """
    if told is None:
        return
    now = await session.get_one(ClientRow, principal.client.id)
    if not _may_follow(told, now):
        await _refuse(session, now, told)


async def note_poll(
    context: Context, principal: ClientPrincipal, told: StateGeneration | None
) -> None:
    """The same, and remembers it; what is known already is not written again."""
    await check(context, principal, told)
    if told is not None and told != _known(principal.client):
        async with context.database.writing() as session:
            await note(session, principal, told)


async def note(
    session: AsyncSession, principal: ClientPrincipal, told: StateGeneration | None
) -> None:
    """Remembers a private state with what is recorded of it.

    Raises:
        StateRestored: as :func:`check`, by what came meanwhile.
    """
    if told is None:
        return
    client = principal.client
    if not await store.note_generation(session, client.id, told):
        await _refuse(session, await store.lock(session, client.id), told)


def _may_follow(told: StateGeneration, client: ClientRow) -> bool:
    known = _known(client)
    return known is None or told.may_follow(known)


def _known(client: ClientRow) -> StateGeneration | None:
    if client.state_generation is None:
        return None
    return StateGeneration(generation=client.state_generation, mark=client.state_mark or "")


async def _refuse(session: AsyncSession, client: ClientRow, told: StateGeneration) -> None:
    known = client.state_generation or 0
    why = (
        f"another worker has gone on from a copy of client {client.name}'s private state"
        if told.generation == known
        else f"client {client.name} has sent update {known} of its private state before, and this "
        f"one knows of {told.generation}"
    )
    last_round = await store.newest_leased_round(session, client.id)
    raise StateRestored(why, generation=known, last_round=last_round)
