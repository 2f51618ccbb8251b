"""A worker that is stopped or killed, and what its next start does."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.support.fake_coordinator import unavailable
from tests.support.hosted_clients import worker_config
from tests.support.looping_worker import Worker
from tests.support.round_bench import Killed
from tests.support.waiting import RecordedSleep
from worker.methods.interface import Participant
from worker.site.private_state import FILE_NAME

LONGEST_STOP_SECONDS = 1.0


async def wait_for_ever(seconds: float) -> None:
    await asyncio.Event().wait()


async def test_a_killed_worker_sends_the_same_bytes_at_its_next_start(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.kill_at("PUT", "/alice")
    with pytest.raises(Killed):
        await worker.run("alice")
    pending = worker.on_disk("alice").pending
    assert pending is not None
    worker.coordinator.receive = lambda _: None
    await worker.run("alice")
    assert worker.coordinator.updates() == [pending.content] * 2
    assert worker.method.trained == [("alice", 1)]
    assert worker.on_disk("alice").pending is None


async def test_a_full_disk_ends_the_worker_and_the_round_goes_on_without_it(
    worker: Worker,
) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.add_task("alice", 2)
    state_dir = worker_config(worker.folder, "tiny", "alice").clients[0].state_dir

    def fill_disk(_: Participant) -> None:
        if worker.method.trained:
            (state_dir / f".{FILE_NAME}.new").symlink_to("/dev/full")

    worker.method.before_step = fill_disk
    with pytest.raises(OSError, match=f"No space left on device: '.*/{FILE_NAME}'"):
        await worker.run("alice")
    kept = worker.on_disk("alice")
    assert (kept.last_round, kept.pending) == (1, None)
    assert len(worker.coordinator.asked("PUT", "/updates/alice")) == 1, "nothing unsaved is sent"
    assert worker.coordinator.declined() == [("alice", 2, "its disk is full")]

    worker.method.before_step = lambda _: None
    worker.coordinator.add_task("alice", 3)
    await worker.run("alice")
    assert worker.method.trained == [("alice", 1), ("alice", 2), ("alice", 3)]
    kept = worker.on_disk("alice")
    assert (kept.last_round, kept.pending) == (3, None)
    assert kept.tensors["embedding"].tolist() == [4.0] * 3, "each round counts once"


async def test_a_worker_killed_while_training_trains_the_round_again(worker: Worker) -> None:
    def crash(participant: object) -> None:
        raise Killed

    worker.coordinator.add_task("alice", 1)
    worker.method.before_step = crash
    with pytest.raises(Killed):
        await worker.run("alice")
    worker.method.before_step = lambda _: None
    await worker.run("alice")
    assert worker.on_disk("alice").tensors["embedding"].tolist() == [1.0, 1.0, 1.0]
    assert len(worker.coordinator.updates()) == 1


async def test_a_stop_ends_training_with_the_state_unchanged(worker: Worker) -> None:
    await worker.run("alice")
    before = (worker.folder / "alice" / FILE_NAME).read_bytes()
    worker.coordinator.add_task("alice", 1)
    worker.method.before_step = lambda _: worker.stop.set()
    await worker.run("alice")
    assert (worker.folder / "alice" / FILE_NAME).read_bytes() == before
    assert worker.coordinator.updates() == []
    worker.stop.clear()
    worker.method.before_step = lambda _: None
    await worker.run("alice")
    assert worker.method.trained == [("alice", 1)]


async def test_a_stop_ends_the_polling(worker: Worker) -> None:
    worker.coordinator.answer("GET", "/task", *(httpx.Response(204) for _ in range(100)))
    worker.stop_at("GET", "/task")
    async with asyncio.timeout(LONGEST_STOP_SECONDS):
        await worker.run("alice")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/enrolments"),
        ("GET", "/federations/tiny"),
        ("GET", "/task"),
        ("GET", "/weights/1"),
        ("PUT", "/alice"),
    ],
)
async def test_a_stop_ends_the_wait_for_a_coordinator_that_is_away(
    worker: Worker, method: str, path: str
) -> None:
    worker.coordinator.add_version(1)
    worker.coordinator.add_task("alice", 1, base_version=1)
    worker.coordinator.answer(method, path, unavailable("3600"))
    worker.sleep = wait_for_ever
    worker.stop_at(method, path)
    async with asyncio.timeout(LONGEST_STOP_SECONDS):
        await worker.run("alice")


async def test_an_update_that_a_stop_left_unanswered_is_sent_at_the_next_start(
    worker: Worker,
) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.answer("PUT", "/alice", unavailable("3600"))
    worker.sleep = wait_for_ever
    worker.stop_at("PUT", "/alice")
    async with asyncio.timeout(LONGEST_STOP_SECONDS):
        await worker.run("alice")
    worker.stop.clear()
    worker.coordinator.receive = lambda _: None
    worker.sleep = RecordedSleep()
    await worker.run("alice")
    first, second = worker.coordinator.updates()
    assert first == second
    assert worker.method.trained == [("alice", 1)]
