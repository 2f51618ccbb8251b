"""Clients' public keys for secure sums."""

from __future__ import annotations

import structlog

from coordinator.access.identity import ClientPrincipal, require_admitted
from coordinator.context import Context
from coordinator.errors import MalformedUpdate
from coordinator.store import clients as store
from coordinator.store import federations as federation_store
from shared.secure_sum.cards import Card, canonical

_log = structlog.get_logger()


async def put_card(context: Context, principal: ClientPrincipal, card: Card) -> Card:
    """Records a client's public keys; the next round that opens is the first with them.

    Raises:
        MalformedUpdate: the card is another client's.
    """
    if (card.federation, card.client) != (principal.federation.name, principal.client.name):
        raise MalformedUpdate(
            f"the card is of client {card.client} of federation {card.federation}",
            member="client",
        )
    async with context.database.writing() as session:
        await require_admitted(session, principal)
        changed = await store.set_card(
            session, principal.client.id, canonical(card.model_dump()).decode()
        )
    if changed:
        _log.info("card recorded", federation=card.federation, client=card.client)
        context.driver_wake.set()
    return card


async def list_cards(context: Context, federation_name: str) -> list[Card]:
    """The cards of a federation's enrolled clients, in order of name.

    Raises:
        UnknownThing: there is no such federation.
    """
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        cards = await store.list_members(session, federation.id, only_with_card=True)
    return [Card.model_validate_json(cards[name] or "") for name in sorted(cards)]
