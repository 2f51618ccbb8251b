"""/v1/federations/{name}/rounds: how rounds went."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from coordinator.operations import rounds
from coordinator.routes.dependencies import AdminDependency, ContextDependency, NameInPath
from shared.rest.schema import RoundSummary, RoundView
from shared.validation import MAX_COUNT

router = APIRouter(prefix="/v1/federations/{federation_name}/rounds", tags=["rounds"])


@router.get("")
async def list_rounds(
    federation_name: NameInPath,
    context: ContextDependency,
    _admin: AdminDependency,
    first: Annotated[int, Query(ge=1, le=MAX_COUNT)] = 1,
    limit: Annotated[int, Query(ge=1, le=rounds.MAX_LISTED)] = 100,
) -> list[RoundSummary]:
    """List rounds from number ``first`` on."""
    return await rounds.list_rounds(context, federation_name, first, limit)


@router.get("/{round_number}")
async def show_round(
    federation_name: NameInPath,
    round_number: Annotated[int, Path(ge=1, le=MAX_COUNT)],
    context: ContextDependency,
    _admin: AdminDependency,
) -> RoundView:
    """Show one round with every client's part in it."""
    return await rounds.show_round(context, federation_name, round_number)
