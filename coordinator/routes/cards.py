"""/v1/federations/{name}/cards: clients' public keys for secure sums."""

from __future__ import annotations

from fastapi import APIRouter

from coordinator.operations import cards
from coordinator.routes.dependencies import (
    ClientDependency,
    ContextDependency,
    NameInPath,
    ViewerDependency,
)
from coordinator.routes.json_route import JsonRoute
from shared.secure_sum.cards import Card

router = APIRouter(
    prefix="/v1/federations/{federation_name}", tags=["secure sum"], route_class=JsonRoute
)


@router.get("/cards")
async def list_cards(
    federation_name: NameInPath, context: ContextDependency, _viewer: ViewerDependency
) -> list[Card]:
    """The public keys of all clients that can take part in a secure sum."""
    return await cards.list_cards(context, federation_name)


@router.put("/cards/{client_name}")
async def put_card(
    client_name: NameInPath, card: Card, context: ContextDependency, client: ClientDependency
) -> Card:
    """Record a client's public keys; sending the same again is safe."""
    client.require_client(client_name)
    return await cards.put_card(context, client, card)
