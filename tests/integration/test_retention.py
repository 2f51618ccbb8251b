"""Versions that are no longer kept: their bytes go, their digests stay, the space is used again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from coordinator.rounds.sweeper import Retention
from coordinator.store import blobs
from shared.arrays import digest_arrays
from shared.federation.specification import FederationSpecification
from shared.tensors import codec
from tests.support.coordinator import RunningCoordinator, running_coordinator
from tests.support.rounds import stored_bytes
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration


async def commit_rounds(
    coordinator: RunningCoordinator, specification: FederationSpecification, count: int
) -> None:
    for _ in range(count):
        task = await coordinator.task(specification.name, "a")
        response = await coordinator.put(task, update_bytes(specification, task))
        assert response.status_code == 201, response.text
        await coordinator.driver.step()


async def statuses(coordinator: RunningCoordinator, newest: int) -> list[int]:
    paths = [f"/v1/federations/tiny/weights/{version}" for version in range(newest + 1)]
    return [
        (await coordinator.http.get(path, headers=coordinator.admin)).status_code for path in paths
    ]


async def test_versions_that_are_not_kept_are_gone_with_a_reason(
    database_url: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"keep_last_versions": 2, "keep_every_version": 3}
    specification = tiny_specification(rounds=7)
    async with running_coordinator(database_url, tmp_path, **settings) as coordinator:
        await coordinator.started(specification, "a")
        await commit_rounds(coordinator, specification, 7)
        assert await statuses(coordinator, 7) == [410, 410, 410, 200, 410, 410, 200, 200]
        gone = await coordinator.http.get(
            "/v1/federations/tiny/weights/4", headers=coordinator.admin
        )
        assert gone.json()["type"] == "urn:hyperfl:problem:version-removed"
        rounds = await coordinator.show("tiny/rounds")
        assert gone.json()["digest"] == rounds[3]["new_digest"]
        seed = await coordinator.http.get(
            "/v1/federations/tiny/weights/0", headers=coordinator.admin
        )
        assert "build them from the specification's seed" in seed.json()["detail"]


async def test_without_settings_ten_versions_are_kept(coordinator: RunningCoordinator) -> None:
    specification = tiny_specification(rounds=12)
    await coordinator.started(specification, "a")
    await commit_rounds(coordinator, specification, 12)
    assert await statuses(coordinator, 12) == [410] * 3 + [200] * 10


async def test_a_stricter_setting_holds_from_the_next_start(
    database_url: str, tmp_path: Path
) -> None:
    specification = tiny_specification(rounds=4)
    async with running_coordinator(database_url, tmp_path) as coordinator:
        await coordinator.started(specification, "a")
        await commit_rounds(coordinator, specification, 4)
        before = await stored_bytes(coordinator.context.database)
    async with running_coordinator(database_url, tmp_path, keep_last_versions=1) as coordinator:
        await coordinator.driver.step()
        assert await statuses(coordinator, 4) == [410] * 4 + [200]
        assert await stored_bytes(coordinator.context.database) * 5 == before


async def test_replicas_that_remove_at_once_remove_the_same(
    database_url: str, tmp_path: Path
) -> None:
    specification = tiny_specification(rounds=4)
    async with running_coordinator(database_url, tmp_path) as coordinator:
        await coordinator.started(specification, "a")
        await commit_rounds(coordinator, specification, 4)
    async with (
        running_coordinator(database_url, tmp_path, keep_last_versions=1) as one,
        running_coordinator(database_url, tmp_path, keep_last_versions=1) as other,
    ):
        await asyncio.gather(*(Retention(replica.context).apply() for replica in (one, other)))
        assert await statuses(one, 4) == [410] * 4 + [200]


async def test_deltas_go_with_the_chain_they_belong_to(database_url: str, tmp_path: Path) -> None:
    specification = tiny_specification(
        encoding={"name": "factored", "wire_dtype": "float16", "max_rank": 1}, rounds=6
    )
    async with running_coordinator(database_url, tmp_path, keep_last_versions=1) as coordinator:
        await coordinator.started(specification, "a")
        await commit_rounds(coordinator, specification, 6)
        async with coordinator.context.database.reading() as session:
            kept = (
                await session.execute(
                    text(
                        "SELECT w.version, b.size_bytes FROM weights w"
                        " JOIN blobs b ON b.id = w.delta_blob_id ORDER BY w.version"
                    )
                )
            ).all()
            whole = await session.scalar(
                text("SELECT b.size_bytes FROM weights w JOIN blobs b ON b.id = w.blob_id")
            )
        assert [version for version, _ in kept] == list(range(7 - len(kept), 7))
        assert len(kept) == 1 or sum(size for _, size in kept) < whole
        # Whether deltas or the whole come, a worker that asks with ``since`` gets the newest.
        for since in range(6):
            answer = await coordinator.http.get(
                f"/v1/federations/tiny/weights/6?since={since}", headers=coordinator.admin
            )
            assert answer.status_code == 200, answer.text


async def test_the_newest_weights_are_whole_after_many_removals(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hyperfl.db'}"
    specification = tiny_specification(rounds=30)
    async with running_coordinator(url, tmp_path, keep_last_versions=1) as coordinator:
        await coordinator.started(specification, "a")
        await commit_rounds(coordinator, specification, 30)
        shown = await coordinator.show("tiny")
        answer = await coordinator.http.get(
            "/v1/federations/tiny/weights/30", headers=coordinator.admin
        )
        assert digest_arrays(codec.decode(answer.content)[0]) == shown["weights_digest"]


async def test_the_sqlite_file_stops_growing(tmp_path: Path) -> None:
    """What is freed is used by the next version: pages needed are those of the versions kept."""
    url = f"sqlite:///{tmp_path / 'hyperfl.db'}"
    async with running_coordinator(url, tmp_path) as coordinator:
        database = coordinator.context.database
        content = np.random.default_rng(1).bytes(3 << 20)

        async def one_version() -> None:
            writer = await coordinator.context.blobs.write(coordinator.clock(), [content])
            async with database.writing() as session:
                blob_id = await writer.seal(session)
            async with database.writing(durable=False) as session:
                await blobs.delete_blobs(session, [blob_id])

        async def pages() -> int:
            async with database.reading() as session:
                return int(await session.scalar(text("PRAGMA page_count")) or 0)

        await one_version()
        before = await pages()
        for _ in range(10):
            await one_version()
        assert await pages() <= before + 4
