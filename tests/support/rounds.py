"""Rounds of a coordinator in this process: updates sent, phases, and what lies in its database."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import func, select

from coordinator.database.transactions import Database
from coordinator.store.tables import (
    AssignmentRow,
    BlobChunkRow,
    BlobRow,
    ClientRow,
    UpdateRow,
    WeightsRow,
)
from shared.arrays import Array
from shared.federation.specification import FederationSpecification
from tests.support.coordinator import RunningCoordinator
from tests.support.updates import update_bytes


async def send_updates(
    coordinator: RunningCoordinator,
    specification: FederationSpecification,
    *clients: str,
    deltas: dict[str, Array] | None = None,
) -> None:
    for client in clients:
        task = await coordinator.task(specification.name, client)
        body = update_bytes(specification, task, deltas)
        response = await coordinator.put(task, body)
        assert response.status_code == 201, response.text


async def phases(coordinator: RunningCoordinator, name: str = "tiny") -> list[str]:
    return [round_["phase"] for round_ in await coordinator.show(f"{name}/rounds")]


async def num_closed(coordinator: RunningCoordinator, phase: str) -> int:
    """Rounds that this coordinator's metrics count as closed in ``phase``."""
    lines = (await coordinator.http.get("/metrics", headers=coordinator.admin)).text.splitlines()
    wanted = f'hyperfl_rounds_closed_total{{phase="{phase}"}} '
    (count,) = (line.removeprefix(wanted) for line in lines if line.startswith(wanted))
    return int(float(count))


async def unsealed_blobs(coordinator: RunningCoordinator) -> list[int]:
    async with coordinator.context.database.reading() as session:
        return list(await session.scalars(select(BlobRow.id).where(BlobRow.digest.is_(None))))


async def damage(
    coordinator: RunningCoordinator, blob_id: int | None, change: Callable[[bytes], bytes]
) -> None:
    """Rewrites the last chunk of a blob behind the coordinator's back."""
    assert blob_id is not None
    async with coordinator.context.database.writing() as session:
        chunks = await session.scalars(
            select(BlobChunkRow)
            .where(BlobChunkRow.blob_id == blob_id)
            .order_by(BlobChunkRow.position)
        )
        last = chunks.all()[-1]
        damaged = change(last.data)
        assert damaged != last.data
        last.data = damaged


async def update_blob(coordinator: RunningCoordinator, client: str) -> int | None:
    """Of the client's newest update."""
    query = (
        select(UpdateRow.blob_id)
        .join(AssignmentRow, AssignmentRow.id == UpdateRow.assignment_id)
        .join(ClientRow, ClientRow.id == AssignmentRow.client_id)
        .where(ClientRow.name == client)
        .order_by(UpdateRow.id.desc())
        .limit(1)
    )
    async with coordinator.context.database.reading() as session:
        return (await session.scalars(query)).one()


async def weights_row(coordinator: RunningCoordinator, version: int) -> WeightsRow:
    async with coordinator.context.database.reading() as session:
        query = select(WeightsRow).where(WeightsRow.version == version)
        return (await session.scalars(query)).one()


async def stored_bytes(database: Database) -> int:
    """Of all chunks, sealed or not."""
    length = func.coalesce(func.sum(func.length(BlobChunkRow.data)), 0)
    async with database.reading() as session:
        return int((await session.scalars(select(length))).one())
