"""A federation's clients, so many at a time, with what they did and what their workers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from coordinator.context import Context
from coordinator.store import client_pages as store
from coordinator.store import federations as federation_store
from shared.rest.schema import ClientState


@dataclass(frozen=True)
class ClientLineView:
    """A client as the page lists it.

    Attributes:
        rounds: whose work it has delivered.
        num_examples: of its newest update; None in a secure sum, which hides it.
        last_reason: of the last round that it declined.
    """

    name: str
    state: ClientState
    invited_at: datetime
    last_seen_at: datetime | None
    worker_version: str | None
    torch_version: str | None
    device: str | None
    rounds: int
    num_examples: int | None
    last_reason: str | None


@dataclass(frozen=True)
class ClientPage:
    """Some of a federation's clients in order of name.

    Attributes:
        first: of them among all, from 1 on.
        total: of all.
    """

    clients: Sequence[ClientLineView]
    first: int
    total: int


async def show(context: Context, federation_name: str, page: int, size: int) -> ClientPage:
    """The ``page``-th ``size`` clients, from page 1 on.

    Raises:
        UnknownThing: there is no such federation.
    """
    first = (page - 1) * size
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        lines = await store.list_clients(session, federation.id, first, size)
        total = await store.count(session, federation.id)
    return ClientPage(
        clients=[
            ClientLineView(
                name=line.client.name,
                state=ClientState(line.client.state),
                invited_at=line.client.invited_at,
                last_seen_at=line.client.last_seen_at,
                worker_version=line.client.worker_version,
                torch_version=line.client.torch_version,
                device=line.client.device,
                rounds=line.rounds,
                num_examples=None if line.is_masked else line.num_examples,
                last_reason=line.last_reason,
            )
            for line in lines
        ],
        first=first + 1,
        total=total,
    )
