"""Drivers of one database: two replicas, lost leases, failed rounds and leftovers."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import structlog
from sqlalchemy import select

from coordinator.context import Context
from coordinator.errors import AggregationFailed
from coordinator.rounds.driver import Driver
from coordinator.rules import cohort
from coordinator.store.tables import BlobChunkRow, BlobRow, UpdateRow, WeightsRow
from shared.arrays import Array, digest_arrays
from shared.federation.specification import FederationSpecification
from tests.support.coordinator import RunningCoordinator, small_chunks
from tests.support.held_aggregations import HeldAggregations
from tests.support.rounds import phases, send_updates, unsealed_blobs
from tests.support.specifications import tiny_specification
from tests.support.updates import random_deltas, update_bytes

pytestmark = pytest.mark.integration

LARGEST = np.finfo(np.float32).max
MATRIX, BIAS = "hypernetwork.output.weight", "hypernetwork.output.bias"


@pytest.fixture
def aggregations(coordinator: RunningCoordinator) -> HeldAggregations:
    """Of the coordinator's driver and its replica's."""
    held = HeldAggregations()
    coordinator.driver = Driver(coordinator.context, aggregate=held.aggregate)
    return held


@pytest.fixture
def replica(replica_context: Context, aggregations: HeldAggregations) -> Driver:
    """The driver of a second coordinator on the same database and clock."""
    return Driver(replica_context, aggregate=aggregations.aggregate)


@small_chunks
async def test_replicas_that_step_at_once_commit_every_round_once(
    coordinator: RunningCoordinator, replica: Driver
) -> None:
    shared, alone = tiny_specification(rounds=4), tiny_specification("alone", rounds=4)
    await coordinator.started(alone, "x", "y", "z")
    for number in range(1, 5):
        for client in "xyz":
            deltas = random_deltas(alone, seed=number * ord(client))
            await send_updates(coordinator, alone, client, deltas=deltas)
        await coordinator.driver.step()
    await coordinator.started(shared, "a", "b", "c")
    for number in range(1, 5):
        for client, twin in (("c", "z"), ("a", "x"), ("b", "y")):
            deltas = random_deltas(shared, seed=number * ord(twin))
            await send_updates(coordinator, shared, client, deltas=deltas)
        await asyncio.gather(
            coordinator.driver.step(), replica.step(), coordinator.driver.step(), replica.step()
        )
        assert (await coordinator.show("tiny"))["weights_version"] == number
    rounds = await coordinator.show("tiny/rounds")
    assert [(r["number"], r["phase"], r["base_version"], r["new_version"]) for r in rounds] == [
        (number, "committed", number - 1, number) for number in range(1, 5)
    ]
    assert (await coordinator.show("tiny"))["state"] == "finished"
    assert await unsealed_blobs(coordinator) == []
    undisturbed = await coordinator.show("alone/rounds")
    assert [r["new_digest"] for r in rounds] == [r["new_digest"] for r in undisturbed]


async def test_replicas_that_start_a_federation_at_once_open_one_round(
    coordinator: RunningCoordinator, replica: Driver
) -> None:
    await coordinator.create(tiny_specification())
    await coordinator.enrol("tiny", "a", "b")
    await coordinator.act("tiny", "start")
    await asyncio.gather(coordinator.driver.step(), replica.step(), coordinator.driver.step())
    assert await phases(coordinator) == ["open"]
    members = (await coordinator.show("tiny/rounds/1"))["assignments"]
    assert [member["client"] for member in members] == ["a", "b"]


async def test_replicas_that_fail_a_round_at_once_count_it_once(
    coordinator: RunningCoordinator, replica: Driver
) -> None:
    specification = tiny_specification(deadline_seconds=10, max_failed_rounds=1)
    await coordinator.started(specification, "a")
    coordinator.clock.advance(11)
    await asyncio.gather(coordinator.driver.step(), replica.step())
    assert await phases(coordinator) == ["failed", "open"]
    assert (await coordinator.show("tiny"))["state"] == "running"


@small_chunks
@pytest.mark.parametrize(
    ("encoding", "at_start"), [("dense", False), ("dense", True), ("factored", False)]
)
async def test_a_lost_aggregation_is_taken_over_and_its_late_result_is_dropped(
    coordinator: RunningCoordinator,
    replica: Driver,
    aggregations: HeldAggregations,
    at_start: bool,
    encoding: str,
) -> None:
    specification = tiny_specification(encoding=encoding)
    await coordinator.started(specification, "a", "b")
    await send_updates(coordinator, specification, "a", "b")
    hold = aggregations.hold_next(at_start=at_start)
    late = await hold.reached_by(coordinator.driver)
    assert await phases(coordinator) == ["aggregating"]

    await replica.step()
    assert await phases(coordinator) == ["aggregating"]
    coordinator.clock.advance(coordinator.context.settings.aggregation_lease_seconds)
    await replica.step()
    before = await coordinator.show("tiny")
    assert (before["weights_version"], await phases(coordinator)) == (1, ["committed", "open"])

    await hold.release(late)
    assert await coordinator.show("tiny") == before
    assert await phases(coordinator) == ["committed", "open"]
    assert await unsealed_blobs(coordinator) == []


async def test_the_failure_of_a_coordinator_that_lost_its_lease_changes_nothing(
    coordinator: RunningCoordinator, replica: Driver, aggregations: HeldAggregations
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    await send_updates(coordinator, specification, "a", "b")
    first = aggregations.hold_next(AggregationFailed("a disk of this machine"))
    second = aggregations.hold_next()
    late = await first.reached_by(coordinator.driver)
    coordinator.clock.advance(coordinator.context.settings.aggregation_lease_seconds)
    current = await second.reached_by(replica)
    await first.release(late)
    after_the_failure = await phases(coordinator)
    await second.release(current)
    assert after_the_failure == ["aggregating"]
    assert await phases(coordinator) == ["committed", "open"]


@small_chunks
async def test_a_federation_that_is_finished_during_an_aggregation_gets_no_version(
    coordinator: RunningCoordinator, aggregations: HeldAggregations
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a")
    await send_updates(coordinator, specification, "a")
    hold = aggregations.hold_next()
    step = await hold.reached_by(coordinator.driver)
    assert (await coordinator.act("tiny", "finish")).status_code == 200
    await hold.release(step)
    assert await phases(coordinator) == ["failed"]
    federation = await coordinator.show("tiny")
    assert (federation["state"], federation["weights_version"]) == ("finished", 0)
    assert await unsealed_blobs(coordinator) == []


async def test_a_federation_that_is_paused_during_an_aggregation_keeps_its_work(
    coordinator: RunningCoordinator, aggregations: HeldAggregations
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a")
    await send_updates(coordinator, specification, "a")
    hold = aggregations.hold_next()
    step = await hold.reached_by(coordinator.driver)
    await coordinator.act("tiny", "pause")
    await hold.release(step)
    assert await phases(coordinator) == ["committed"]
    assert (await coordinator.show("tiny"))["weights_version"] == 1
    await coordinator.act("tiny", "resume")
    await coordinator.driver.step()
    assert await phases(coordinator) == ["committed", "open"]


async def test_a_failed_round_is_retried_with_a_fresh_cohort_until_the_federation_gives_up(
    coordinator: RunningCoordinator,
) -> None:
    names = list("abcdefgh")
    specification = tiny_specification(
        cohort_size=3, minimum_updates=2, max_failed_rounds=3, deadline_seconds=10
    )
    await coordinator.started(specification, *names)
    for _ in range(6):
        coordinator.clock.advance(11)
        await coordinator.driver.step()
    rounds = await coordinator.show("tiny/rounds")
    assert [r["phase"] for r in rounds] == ["failed"] * 4
    assert {r["base_version"] for r in rounds} == {0}
    cohorts = []
    for number in range(1, 5):
        members = (await coordinator.show(f"tiny/rounds/{number}"))["assignments"]
        cohorts.append([member["client"] for member in members])
    seed = specification.parameters.seed
    assert cohorts == [cohort.sample(seed, number, names, 3) for number in range(1, 5)]
    assert len({tuple(members) for members in cohorts}) > 1
    federation = await coordinator.show("tiny")
    assert (federation["state"], federation["reason"]) == (
        "paused",
        "4 rounds failed in a row; the last: 0 updates at the end of the round, 2 needed",
    )


async def test_a_commit_forgives_the_failed_rounds_before_it(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(rounds=5, max_failed_rounds=1, deadline_seconds=10)
    await coordinator.started(specification, "a")
    for _ in range(3):
        coordinator.clock.advance(11)
        await coordinator.driver.step()
        await send_updates(coordinator, specification, "a")
        await coordinator.driver.step()
    assert await phases(coordinator) == ["failed", "committed"] * 3 + ["open"]
    assert (await coordinator.show("tiny"))["state"] == "running"


async def test_every_lease_that_runs_out_is_offered_again_with_the_next_attempt(
    coordinator: RunningCoordinator, replica: Driver
) -> None:
    await coordinator.started(tiny_specification(lease_seconds=30), "a", "b", "c")
    await coordinator.task("tiny", "c")
    attempts = []
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            for client in ("a", "b"):
                attempts.append((await coordinator.task("tiny", client))["attempt"])
            coordinator.clock.advance(30)
            await asyncio.gather(coordinator.driver.step(), replica.step())
    assert attempts == [1, 1, 2, 2, 3, 3]
    expired = [line for line in logs if line["event"] == "lease expired"]
    assert [(line["federation"], line["round"], line["client"]) for line in expired[:3]] == [
        ("tiny", 1, "a"),
        ("tiny", 1, "b"),
        ("tiny", 1, "c"),
    ]
    members = (await coordinator.show("tiny/rounds/1"))["assignments"]
    assert [(m["state"], m["attempt"]) for m in members] == [
        ("expired", 3),
        ("expired", 3),
        ("expired", 1),
    ]


async def test_weights_that_would_exceed_float32_fail_the_round_with_a_reason(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(rounds=3, max_relative_norm=None)
    await coordinator.started(specification, "a")
    deltas = random_deltas(specification, 1)
    deltas[BIAS][2] = LARGEST
    for _ in range(2):
        await send_updates(coordinator, specification, "a", deltas=deltas)
        await coordinator.driver.step()
    assert await phases(coordinator) == ["committed", "failed", "open"]
    reason = (await coordinator.show("tiny/rounds/2"))["reason"]
    assert reason == f"the aggregated tensor {BIAS} exceeds float32"
    assert (await coordinator.show("tiny"))["weights_version"] == 1


async def send_factored(
    coordinator: RunningCoordinator,
    specification: FederationSpecification,
    **matrix: list[list[float]],
) -> None:
    """An update that changes nothing but one matrix, whose factors are given."""
    task = await coordinator.task(specification.name, "a")
    wire: dict[str, Array] = {}
    for tensor in specification.parameters.tensors:
        wire[tensor.name] = np.zeros(tensor.shape, np.float32)
        wire[tensor.name + "/scale"] = np.array(1.0, np.float32)
    del wire[MATRIX], wire[MATRIX + "/scale"]
    wire[MATRIX + "/base_scale"] = np.array(0.0, np.float32)
    for side, values in matrix.items():
        wire[f"{MATRIX}/{side}"] = np.array(values, np.float32)
    body = update_bytes(specification, task, wire, encoding="factored")
    response = await coordinator.put(task, body)
    assert response.status_code == 201, response.text


async def test_factors_whose_product_exceeds_float32_fail_the_round_with_a_reason(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(encoding="factored", max_relative_norm=None)
    await coordinator.started(specification, "a")
    largest = float(LARGEST)
    await send_factored(
        coordinator, specification, left=[[largest] * 4] * 2, right=[[largest] * 2] * 2
    )
    await coordinator.driver.step()
    assert await phases(coordinator) == ["failed", "open"]
    assert (await coordinator.show("tiny/rounds/1"))["reason"]


async def test_published_deltas_that_add_up_beyond_float32_fail_the_round_with_a_reason(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(encoding="factored", rounds=3, max_relative_norm=None)
    await coordinator.started(specification, "a")
    for _ in range(2):
        await send_factored(coordinator, specification, left=[[1.5e19] * 4], right=[[1.5e19] * 2])
        await coordinator.driver.step()
    assert await phases(coordinator) == ["committed", "failed", "open"]
    reason = (await coordinator.show("tiny/rounds/2"))["reason"]
    assert reason == f"the aggregated tensor {MATRIX} exceeds float32"


async def test_updates_of_failed_rounds_and_spent_residuals_are_deleted(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(
        encoding="factored", rounds=5, minimum_updates=2, deadline_seconds=10
    )
    await coordinator.started(specification, "a", "b")
    await send_updates(coordinator, specification, "a")
    coordinator.clock.advance(11)
    await coordinator.driver.step()
    for _ in range(3):
        await send_updates(coordinator, specification, "a", "b")
        await coordinator.driver.step()
    assert await phases(coordinator) == ["failed", *["committed"] * 3, "open"]
    async with coordinator.context.database.reading() as session:
        kept_updates = await session.scalars(
            select(UpdateRow.blob_id).where(UpdateRow.blob_id.is_not(None))
        )
        assert list(kept_updates) == []
        versions = list(await session.scalars(select(WeightsRow).order_by(WeightsRow.version)))
        kept = set(await session.scalars(select(BlobRow.id)))
        chunks = set(await session.scalars(select(BlobChunkRow.blob_id)))
    assert [row.residual_blob_id is not None for row in versions] == [False, False, False, True]
    named = {
        blob_id
        for row in versions
        for blob_id in (row.blob_id, row.delta_blob_id, row.residual_blob_id)
        if blob_id is not None
    }
    assert kept == chunks == named


@small_chunks
async def test_leftovers_of_broken_uploads_are_swept_when_they_are_a_day_old(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    blob_store = coordinator.context.blobs
    await blob_store.write(coordinator.clock(), [bytes(300)])
    [old] = await unsealed_blobs(coordinator)
    coordinator.clock.advance(23 * 3600)
    await blob_store.write(coordinator.clock(), [bytes(300)])
    [young] = set(await unsealed_blobs(coordinator)) - {old}
    await coordinator.driver.step()
    assert sorted(await unsealed_blobs(coordinator)) == [old, young]
    coordinator.clock.advance(3601)
    await coordinator.driver.step()
    assert await unsealed_blobs(coordinator) == [young]
    assert [piece async for piece in blob_store.read(old)] == []
    weights = await coordinator.http.get(
        "/v1/federations/tiny/weights/0", headers=coordinator.admin
    )
    assert weights.status_code == 200


async def test_an_aggregation_of_the_same_updates_after_a_takeover_gives_the_same_digest(
    coordinator: RunningCoordinator, replica: Driver, aggregations: HeldAggregations
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    await send_updates(coordinator, specification, "b", "a")
    hold = aggregations.hold_next()
    late = await hold.reached_by(coordinator.driver)
    coordinator.clock.advance(coordinator.context.settings.aggregation_lease_seconds)
    await replica.step()
    await hold.release(late)
    base = specification.parameters.initial_values()
    deltas = random_deltas(specification, seed=1)
    # Both clients sent the same change, so its mean is the change itself.
    expected = {name: base[name] + deltas[name] for name in base}
    rounds = await coordinator.show("tiny/rounds")
    assert rounds[0]["new_digest"] == digest_arrays(expected)
