"""The life of a federation over REST, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from shared.arrays import digest_arrays
from shared.tensors import codec
from tests.support.coordinator import RunningCoordinator
from tests.support.rounds import num_closed, stored_bytes
from tests.support.specifications import tiny_specification
from tests.support.updates import random_deltas, update_bytes

pytestmark = pytest.mark.integration


async def test_a_hand_computed_round_is_the_weighted_mean_to_the_last_digit(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(rounds=1)
    await coordinator.started(specification, "a", "b")
    deltas = {"a": random_deltas(specification, 1), "b": random_deltas(specification, 2)}
    examples = {"a": 30, "b": 7}
    for client in ("b", "a"):
        task = await coordinator.task("tiny", client)
        body = update_bytes(specification, task, deltas[client], num_examples=examples[client])
        assert (await coordinator.put(task, body)).status_code == 201
    await coordinator.driver.step()

    base = specification.parameters.initial_values()
    expected = {
        name: (
            base[name].astype(np.float64)
            + (30 * deltas["a"][name].astype(np.float64) + 7 * deltas["b"][name].astype(np.float64))
            / 37
        ).astype(np.float32)
        for name in base
    }
    response = await coordinator.http.get(
        "/v1/federations/tiny/weights/1", headers=coordinator.admin
    )
    weights, _ = codec.decode(response.content)
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value)
    assert response.headers["ETag"] == f'"{digest_arrays(expected)}"'


async def test_order_of_arrival_does_not_change_the_weights(
    coordinator: RunningCoordinator,
) -> None:
    digests = []
    for name, order in (("one", ["a", "b", "c"]), ("two", ["c", "a", "b"])):
        specification = tiny_specification(name, rounds=1)
        await coordinator.started(specification, "a", "b", "c")
        for client in order:
            task = await coordinator.task(name, client)
            deltas = random_deltas(specification, seed=ord(client))
            await coordinator.put(task, update_bytes(specification, task, deltas))
        await coordinator.driver.step()
        digests.append((await coordinator.show(name))["weights_digest"])
    assert digests[0] == digests[1]
    assert digests[0] != digest_arrays(specification.parameters.initial_values())


async def test_a_federation_runs_from_draft_to_its_final_evaluation(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(rounds=2, evaluate_final=True)
    await coordinator.started(specification, "a", "b")
    kinds = []
    for _ in range(3):
        for client in ("a", "b"):
            task = await coordinator.task("tiny", client)
            kinds.append(task["kind"])
            response = await coordinator.put(task, update_bytes(specification, task))
            assert response.status_code == 201, response.text
        await coordinator.driver.step()
    assert kinds == ["train"] * 4 + ["evaluate"] * 2
    federation = await coordinator.show("tiny")
    assert federation["state"] == "finished"
    assert federation["weights_version"] == 2
    finished = await coordinator.poll("tiny", "a")
    assert finished.status_code == 410
    assert finished.json()["type"] == "urn:hyperfl:problem:federation-finished"
    rounds = await coordinator.show("tiny/rounds")
    assert [(r["kind"], r["phase"], r["new_version"]) for r in rounds] == [
        ("train", "committed", 1),
        ("train", "committed", 2),
        ("evaluate", "committed", None),
    ]
    assert rounds[0]["metrics"] == {"accuracy_after": 0.5}
    assert rounds[0]["bytes_up"] > 0


async def test_update_bytes_are_deleted_when_the_round_is_committed(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(rounds=5)
    await coordinator.started(specification, "a")
    stored = []
    for _ in range(3):
        task = await coordinator.task("tiny", "a")
        await coordinator.put(task, update_bytes(specification, task))
        await coordinator.driver.step()
        stored.append(await stored_bytes(coordinator.context.database))
    weights = stored[1] - stored[0]
    assert stored[2] - stored[1] == weights
    assert stored[0] == 2 * weights  # versions 0 and 1, and no update


async def test_the_deadline_commits_with_quorum_and_fails_without(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(rounds=2, minimum_updates=2, deadline_seconds=60)
    await coordinator.started(specification, "a", "b", "c")
    for client in ("a", "b"):
        task = await coordinator.task("tiny", client)
        await coordinator.put(task, update_bytes(specification, task))
    late = await coordinator.task("tiny", "c")
    await coordinator.driver.step()
    assert (await coordinator.show("tiny"))["weights_version"] == 0
    coordinator.clock.advance(61)
    await coordinator.driver.step()
    assert (await coordinator.show("tiny"))["weights_version"] == 1

    refused = await coordinator.put(late, update_bytes(specification, late))
    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:hyperfl:problem:round-closed"
    assert refused.json()["current_round"] == 2
    assert refused.json()["weights_version"] == 1

    coordinator.clock.advance(61)
    await coordinator.driver.step()
    rounds = await coordinator.show("tiny/rounds")
    assert [r["phase"] for r in rounds] == ["committed", "failed", "open"]
    assert rounds[1]["reason"] == "0 updates at the end of the round, 2 needed"
    assert rounds[2]["base_version"] == 1

    assert (await coordinator.act("tiny", "finish")).status_code == 200
    assert [r["phase"] for r in await coordinator.show("tiny/rounds")][2] == "failed"
    assert await num_closed(coordinator, "failed") == 2
    assert await num_closed(coordinator, "committed") == 1


async def test_rounds_that_keep_failing_pause_the_federation_with_a_reason(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(max_failed_rounds=1, deadline_seconds=10)
    await coordinator.started(specification, "a")
    for _ in range(2):
        coordinator.clock.advance(11)
        await coordinator.driver.step()
    federation = await coordinator.show("tiny")
    assert (federation["state"], federation["reason"]) == (
        "paused",
        "2 rounds failed in a row; the last: 0 updates at the end of the round, 1 needed",
    )
    assert (await coordinator.poll("tiny", "a")).status_code == 204
    assert (await coordinator.act("tiny", "resume")).status_code == 200
    await coordinator.driver.step()
    assert (await coordinator.poll("tiny", "a")).status_code == 200


async def test_a_round_has_its_whole_time_again_when_its_federation_is_resumed(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(max_failed_rounds=0, deadline_seconds=60)
    await coordinator.started(specification, "a")
    task = await coordinator.task("tiny", "a")
    coordinator.clock.advance(50)
    assert (await coordinator.act("tiny", "pause")).status_code == 200
    coordinator.clock.advance(3600)
    await coordinator.driver.step()
    assert (await coordinator.act("tiny", "resume")).status_code == 200
    await coordinator.driver.step()
    coordinator.clock.advance(59)
    await coordinator.driver.step()
    assert [r["phase"] for r in await coordinator.show("tiny/rounds")] == ["open"]
    again = await coordinator.task("tiny", "a")
    assert again["round_number"] == task["round_number"] == 1
    coordinator.clock.advance(1)
    await coordinator.driver.step()
    assert [r["phase"] for r in await coordinator.show("tiny/rounds")] == ["failed"]
    assert (await coordinator.show("tiny"))["state"] == "paused"


async def test_a_resumption_leaves_rounds_that_are_closed_or_not_paused_as_they_are(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(max_failed_rounds=0, deadline_seconds=60)
    other = specification.model_copy(update={"name": "other"})
    await coordinator.started(specification, "a")
    await coordinator.act("tiny", "pause")
    coordinator.clock.advance(30)
    await coordinator.started(other, "b")
    before = await coordinator.show("other/rounds")
    await coordinator.act("tiny", "resume")
    assert await coordinator.show("other/rounds") == before
    coordinator.clock.advance(60)
    await coordinator.driver.step()
    (failed,) = await coordinator.show("tiny/rounds")
    assert failed["phase"] == "failed"
    await coordinator.act("tiny", "resume")
    assert await coordinator.show("tiny/rounds") == [failed]


async def test_a_federation_says_how_many_clients_it_waits_for(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(cohort_size=2, minimum_updates=2)
    await coordinator.started(specification, "a")
    assert (await coordinator.show("tiny"))[
        "reason"
    ] == "waiting for 1 more clients to enrol and to ask for work"
    await coordinator.enrol("tiny", "b")
    await coordinator.driver.step()
    federation = await coordinator.show("tiny")
    assert (federation["reason"], federation["round_number"]) == (None, 1)


async def test_a_lease_is_redelivered_then_expires_and_fences_the_old_attempt_off(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(lease_seconds=30)
    await coordinator.started(specification, "a", "b")
    first = await coordinator.task("tiny", "a")
    assert await coordinator.task("tiny", "a") == first
    coordinator.clock.advance(31)
    await coordinator.driver.step()
    states = {
        row["client"]: row["state"]
        for row in (await coordinator.show("tiny/rounds/1"))["assignments"]
    }
    assert states == {"a": "expired", "b": "offered"}
    second = await coordinator.task("tiny", "a")
    assert second["attempt"] == first["attempt"] + 1
    body = update_bytes(specification, first)
    refused = await coordinator.put(first, body)
    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:hyperfl:problem:lease-lost"
    assert refused.json()["attempt"] == second["attempt"]
    assert (await coordinator.put(second, body)).status_code == 201


async def test_an_expired_lease_that_nobody_took_still_delivers(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(lease_seconds=30)
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    coordinator.clock.advance(31)
    await coordinator.driver.step()
    assert (await coordinator.put(task, update_bytes(specification, task))).status_code == 201


async def test_heartbeats_keep_a_lease(coordinator: RunningCoordinator) -> None:
    specification = tiny_specification(lease_seconds=30)
    await coordinator.started(specification, "a")
    task = await coordinator.task("tiny", "a")
    for _ in range(3):
        coordinator.clock.advance(20)
        await coordinator.driver.step()
        beat = await coordinator.http.post(
            "/v1/federations/tiny/rounds/1/heartbeat",
            json={"attempt": task["attempt"]},
            headers=coordinator.credentials["a"],
        )
        assert beat.status_code == 200, beat.text
    assert (await coordinator.put(task, update_bytes(specification, task))).status_code == 201


async def test_the_same_bytes_again_give_the_same_receipt_even_after_the_round(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a")
    task = await coordinator.task("tiny", "a")
    body = update_bytes(specification, task)
    first = await coordinator.put(task, body)
    await coordinator.driver.step()
    again = await coordinator.put(task, body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = await coordinator.put(task, update_bytes(specification, task, num_examples=11))
    assert other.status_code == 409
    assert other.json()["type"] == "urn:hyperfl:problem:update-conflict"


async def test_the_same_update_sent_twice_at_once_is_recorded_once(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    body = update_bytes(specification, task)
    answers = await asyncio.gather(*(coordinator.put(task, body) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert len({answer.text for answer in answers}) == 1, "all get the same receipt"
    assert (await coordinator.show("tiny/rounds/1"))["updates_received"] == 1


async def test_a_long_poll_is_answered_when_the_round_opens(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification()
    await coordinator.create(specification)
    await coordinator.enrol("tiny", "a")
    waiting = asyncio.create_task(
        coordinator.http.get(
            "/v1/federations/tiny/task", params={"wait": 20}, headers=coordinator.credentials["a"]
        )
    )
    await asyncio.sleep(0)
    await coordinator.act("tiny", "start")
    await coordinator.driver.step()
    response = await asyncio.wait_for(waiting, 10)
    assert response.status_code == 200


async def test_a_revoked_client_does_not_hold_up_the_round(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    await coordinator.put(task, update_bytes(specification, task))
    gone = await coordinator.http.delete(
        "/v1/federations/tiny/clients/b", headers=coordinator.admin
    )
    assert gone.status_code == 204
    await coordinator.driver.step()
    assert (await coordinator.show("tiny"))["weights_version"] == 1
    assert (await coordinator.poll("tiny", "b")).status_code == 401


async def test_means_of_metrics_are_numbers_whatever_clients_report(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    for client, loss in (("a", 1.7e308), ("b", 1.5e308)):
        task = await coordinator.task("tiny", client)
        metrics = {"loss": loss, "gain": -loss, "accuracy": 0.5}
        sent = await coordinator.put(task, update_bytes(specification, task, metrics=metrics))
        assert sent.status_code == 201, sent.text
    shown = await coordinator.show("tiny/rounds/1")
    assert shown["metrics"] == {"loss": 1.6e308, "gain": -1.6e308, "accuracy": 0.5}


async def test_only_legal_transitions(coordinator: RunningCoordinator) -> None:
    await coordinator.create(tiny_specification())
    for action, status in [
        ("pause", 409),
        ("start", 200),
        ("start", 409),
        ("pause", 200),
        ("resume", 200),
        ("finish", 200),
        ("start", 409),
        ("dance", 422),
    ]:
        assert (await coordinator.act("tiny", action)).status_code == status, action


async def test_weights_are_immutable_files_with_ranges(coordinator: RunningCoordinator) -> None:
    await coordinator.create(tiny_specification())
    path = "/v1/federations/tiny/weights/0"
    whole = await coordinator.http.get(path, headers=coordinator.admin)
    assert whole.status_code == 200
    etag = whole.headers["ETag"]
    part = await coordinator.http.get(path, headers=coordinator.admin | {"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, whole.content[5:10])
    assert part.headers["Content-Range"] == f"bytes 5-9/{len(whole.content)}"
    tail = await coordinator.http.get(path, headers=coordinator.admin | {"Range": "bytes=-4"})
    assert tail.content == whole.content[-4:]
    behind = await coordinator.http.get(
        path, headers=coordinator.admin | {"Range": f"bytes={len(whole.content)}-"}
    )
    assert behind.status_code == 416
    unchanged = await coordinator.http.get(
        path, headers=coordinator.admin | {"If-None-Match": etag}
    )
    assert unchanged.status_code == 304
    missing = await coordinator.http.get(
        "/v1/federations/tiny/weights/1", headers=coordinator.admin
    )
    assert missing.status_code == 404
