"""/v1/federations/{name}/rounds/{n}/exchange: what a secure sum's members say to each other."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from coordinator.operations import exchange
from coordinator.routes.dependencies import ClientDependency, ContextDependency
from coordinator.routes.json_route import JsonRoute
from shared.rest.schema import ExchangeReceipt
from shared.secure_sum.messages import Confirmation, Join, Unmasking
from shared.validation import MAX_COUNT

router = APIRouter(
    prefix="/v1/federations/{federation_name}", tags=["secure sum"], route_class=JsonRoute
)

RoundNumber = Annotated[int, Path(ge=1, le=MAX_COUNT)]
Attempt = Annotated[int, Query(ge=1, le=MAX_COUNT)]


@router.put("/rounds/{round_number}/exchange/join")
async def put_join(
    round_number: RoundNumber,
    attempt: Attempt,
    message: Join,
    context: ContextDependency,
    client: ClientDependency,
) -> ExchangeReceipt:
    """Join the round's sum; sending the same again is safe."""
    return await exchange.join(context, client, round_number, attempt, message)


@router.put("/rounds/{round_number}/exchange/confirm")
async def put_confirmation(
    round_number: RoundNumber,
    attempt: Attempt,
    message: Confirmation,
    context: ContextDependency,
    client: ClientDependency,
) -> ExchangeReceipt:
    """Confirm the survivors; sending the same again is safe."""
    return await exchange.confirm(context, client, round_number, attempt, message)


@router.put("/rounds/{round_number}/exchange/unmask")
async def put_shares(
    round_number: RoundNumber,
    attempt: Attempt,
    message: Unmasking,
    context: ContextDependency,
    client: ClientDependency,
) -> ExchangeReceipt:
    """Give the shares that unmask the sum; sending the same again is safe."""
    return await exchange.unmask(context, client, round_number, attempt, message)
