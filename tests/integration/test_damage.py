"""Stored bytes that are not those that were recorded: the round fails and says so."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from coordinator.rounds.driver import Driver
from coordinator.store.blobs import BlobStore
from shared.federation.specification import FederationSpecification
from tests.support.changes import RULES, specified
from tests.support.coordinator import RunningCoordinator, on_sqlite, small_chunks
from tests.support.rounds import (
    damage,
    phases,
    send_updates,
    unsealed_blobs,
    update_blob,
    weights_row,
)
from tests.support.specifications import tiny_specification

pytestmark = pytest.mark.integration

BIAS = "hypernetwork.output.bias"
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a bit of a value": lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
    "the end": lambda data: data[:-4],
    "the header": lambda data: data[:10] + b"\xff" + data[11:],
    "a name in the header": lambda data: data.replace(BIAS.encode(), BIAS[:-1].encode() + b"z"),
    "a shape in the header": lambda data: data.replace(b"[4,2]", b"[2,4]"),
}


CLIENTS = (*"abcdef", "site-a")


def ruled(encoding: str, rule: str, **policy: Any) -> FederationSpecification:
    return specified(encoding, RULES.get(rule, rule), minimum_updates=7, **policy)


@on_sqlite
@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("rule", ["mean", *RULES])
async def test_a_damaged_update_fails_the_round_with_a_reason(
    coordinator: RunningCoordinator, rule: str, kind: str
) -> None:
    await check_damaged_update(coordinator, ruled("dense", rule), DAMAGE[kind])


@on_sqlite
@pytest.mark.parametrize("rule", ["mean", *RULES])
async def test_a_damaged_update_of_a_factored_federation_fails_the_round_with_a_reason(
    coordinator: RunningCoordinator, rule: str
) -> None:
    specification = ruled("factored", rule)
    await check_damaged_update(coordinator, specification, DAMAGE["a bit of a value"])


@on_sqlite
@pytest.mark.parametrize("encoding", ["dense", "factored"])
async def test_a_damaged_update_fails_a_round_that_measures_norms(
    coordinator: RunningCoordinator, encoding: str
) -> None:
    specification = ruled(encoding, "mean", max_update_norm=1.0)
    await check_damaged_update(coordinator, specification, DAMAGE["a bit of a value"])


async def check_damaged_update(
    coordinator: RunningCoordinator,
    specification: FederationSpecification,
    change: Callable[[bytes], bytes],
) -> None:
    await coordinator.started(specification, *CLIENTS)
    await send_updates(coordinator, specification, *CLIENTS)
    await damage(coordinator, await update_blob(coordinator, "site-a"), change)
    await coordinator.driver.step()
    failed, retry = await coordinator.show("tiny/rounds")
    assert (failed["phase"], retry["phase"], retry["base_version"]) == ("failed", "open", 0)
    assert failed["reason"] == "the stored update of client site-a is damaged"
    assert (await coordinator.show("tiny"))["weights_version"] == 0
    assert await unsealed_blobs(coordinator) == []


@pytest.mark.parametrize("encoding", ["dense", "factored"])
async def test_damaged_weights_fail_the_round_with_a_reason(
    coordinator: RunningCoordinator, encoding: str
) -> None:
    specification = tiny_specification(encoding=encoding)
    await coordinator.started(specification, "a")
    await send_updates(coordinator, specification, "a")
    weights = await weights_row(coordinator, 0)
    await damage(coordinator, weights.blob_id, DAMAGE["a bit of a value"])
    await coordinator.driver.step()
    failed, _ = await coordinator.show("tiny/rounds")
    assert failed["phase"] == "failed"
    assert failed["reason"] == "the stored weights of version 0 are damaged"
    assert (await coordinator.show("tiny"))["weights_version"] == 0


@small_chunks
async def test_a_failed_aggregation_leaves_no_bytes_behind(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(encoding="factored")
    await coordinator.started(specification, "a")
    await send_updates(coordinator, specification, "a")
    weights = await weights_row(coordinator, 0)
    await damage(coordinator, weights.blob_id, DAMAGE["a bit of a value"])
    await coordinator.driver.step()
    assert await phases(coordinator) == ["failed", "open"]
    assert await unsealed_blobs(coordinator) == []


async def test_a_damaged_residual_fails_the_round_with_a_reason(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(
        encoding={"name": "factored", "publish_max_rank": 1}, rounds=3
    )
    await coordinator.started(specification, "a")
    await send_updates(coordinator, specification, "a")
    await coordinator.driver.step()
    residual = (await weights_row(coordinator, 1)).residual_blob_id
    await damage(coordinator, residual, DAMAGE["a bit of a value"])
    await send_updates(coordinator, specification, "a")
    await coordinator.driver.step()
    assert await phases(coordinator) == ["committed", "failed", "open"]
    assert (await coordinator.show("tiny/rounds/2"))["reason"]
    assert (await coordinator.show("tiny"))["weights_version"] == 1


class VanishingBlob(BlobStore):
    """Loses the end of one blob once it was read to there."""

    def __init__(self, coordinator: RunningCoordinator, blob_id: int) -> None:
        own = coordinator.context.blobs
        super().__init__(own.database, own.chunk_bytes)
        self._coordinator = coordinator
        self._blob_id = blob_id

    async def read(
        self, blob_id: int, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        async for piece in super().read(blob_id, start, end):
            yield piece
        if blob_id == self._blob_id:
            await damage(self._coordinator, blob_id, DAMAGE["the end"])


@small_chunks
@pytest.mark.parametrize("rule", ["median", "multi-krum"])
async def test_bytes_that_vanish_between_two_blocks_fail_the_round_with_a_reason(
    coordinator: RunningCoordinator, rule: str
) -> None:
    specification = ruled("dense", rule)
    await coordinator.started(specification, *CLIENTS)
    await send_updates(coordinator, specification, *CLIENTS)
    vanishing = VanishingBlob(coordinator, await update_blob(coordinator, "site-a"))
    await Driver(replace(coordinator.context, blobs=vanishing)).step()
    failed, retry = await coordinator.show("tiny/rounds")
    assert (failed["phase"], retry["phase"], retry["base_version"]) == ("failed", "open", 0)
    assert re.fullmatch(r"stored blob \d+ has no byte \d+", failed["reason"])
    assert await unsealed_blobs(coordinator) == []


@on_sqlite
@pytest.mark.parametrize("rule", ["mean", *RULES])
async def test_a_federation_whose_updates_are_damaged_again_and_again_pauses_and_says_so(
    coordinator: RunningCoordinator, rule: str
) -> None:
    specification = ruled("dense", rule, max_failed_rounds=2)
    await coordinator.started(specification, *CLIENTS)
    for _ in range(3):
        await send_updates(coordinator, specification, *CLIENTS)
        blob_id = await update_blob(coordinator, "site-a")
        await damage(coordinator, blob_id, DAMAGE["a bit of a value"])
        await coordinator.driver.step()
    assert await phases(coordinator) == ["failed"] * 3
    federation = await coordinator.show("tiny")
    assert (federation["state"], federation["reason"]) == (
        "paused",
        "3 rounds failed in a row; the last: the stored update of client site-a is damaged",
    )


@on_sqlite
@pytest.mark.parametrize("rule", ["mean", *RULES])
async def test_a_federation_whose_weights_are_damaged_pauses_and_says_so(
    coordinator: RunningCoordinator, rule: str
) -> None:
    specification = ruled("factored", rule, max_failed_rounds=1)
    await coordinator.started(specification, *CLIENTS)
    weights = await weights_row(coordinator, 0)
    await damage(coordinator, weights.blob_id, DAMAGE["a bit of a value"])
    for _ in range(2):
        await send_updates(coordinator, specification, *CLIENTS)
        await coordinator.driver.step()
    federation = await coordinator.show("tiny")
    assert (federation["state"], federation["reason"]) == (
        "paused",
        "2 rounds failed in a row; the last: the stored weights of version 0 are damaged",
    )
