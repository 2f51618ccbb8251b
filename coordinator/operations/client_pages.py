"""A federation's clients, so many at a time, with what they did and what their workers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.context import Context
from coordinator.operations import clients
from coordinator.store import client_pages as store
from coordinator.store import federations as federation_store
from shared.rest.schema import ClientView


@dataclass(frozen=True)
class ClientLine:
    """A client as the page lists it.

    Attributes:
        view: as the interface shows it.
        num_examples: of its newest update; None in a secure sum, which hides it.
        last_reason: of the last round that it declined.
    """

    view: ClientView
    num_examples: int | None
    last_reason: str | None


@dataclass(frozen=True)
class ClientPage:
    """Some of a federation's clients in order of name.

    Attributes:
        first: of them among all, from 1 on.
        total: of all.
    """

    clients: Sequence[ClientLine]
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
        rows = await store.list_clients(session, federation.id, first, size)
        total = await store.count(session, federation.id)
    return ClientPage(
        clients=[
            ClientLine(clients.view_of(row), row.num_examples, row.last_reason) for row in rows
        ],
        first=first + 1,
        total=total,
    )
