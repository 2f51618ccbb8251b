"""Leases that are kept alive while a round is worked on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import httpx
import pytest
import structlog

from shared.arrays import NamedArrays
from shared.rest.problems import ProblemType
from tests.support.fake_coordinator import Request, problem, unavailable
from tests.support.round_bench import Bench, leak
from tests.support.stub_method import StubMethod
from worker.methods.interface import Participant, TrainingResult


def wait_for_heartbeat(bench: Bench, number: int = 1) -> asyncio.Event:
    """Makes training last until so many heartbeats were seen."""
    seen, released = asyncio.Event(), threading.Event()

    def note(request: Request) -> None:
        if request.url.path.endswith("/heartbeat"):
            seen.set()
            if len(bench.coordinator.asked("POST", "/heartbeat")) >= number:
                released.set()

    def wait(participant: Participant) -> None:
        released.wait(5.0)

    async def sleep(seconds: float) -> None:
        bench.beats_after.append(seconds)
        await asyncio.sleep(0.001)

    bench.coordinator.receive = note
    bench.method.before_step = wait
    bench.heartbeat_sleep = sleep
    return seen


async def test_a_lease_is_kept_alive_while_training_lasts(bench: Bench) -> None:
    seen = wait_for_heartbeat(bench)
    await bench.round_work().do([bench.held("alice", round_number=3, lease_seconds=30.0)])
    assert seen.is_set()
    assert set(bench.beats_after) == {10.0}
    beats = bench.coordinator.asked("POST", "/rounds/3/heartbeat")
    assert {beat.content for beat in beats} == {b'{"attempt":1}'}
    assert len(bench.coordinator.updates()) == 1


class TrainsUntilStopped(StubMethod):
    """Its first step takes as long as nobody stops it."""

    def train(
        self,
        group: Sequence[Participant],
        weights: NamedArrays,
        round_number: int,
        should_stop: Callable[[], bool],
    ) -> Iterator[TrainingResult]:
        give_up_at = time.monotonic() + 5.0
        while not should_stop() and time.monotonic() < give_up_at:
            time.sleep(0.002)
        return super().train(group, weights, round_number, should_stop)


def train_until_stopped(bench: Bench) -> None:
    wait_for_heartbeat(bench)
    bench.method = TrainsUntilStopped(bench.coordinator.specification.parameters)


@pytest.mark.parametrize(
    "answer",
    [
        problem(ProblemType.LEASE_LOST),
        unavailable(),
        httpx.ReadTimeout("slow"),
        httpx.Response(404, html="<h1>It works!</h1>"),
    ],
    ids=["lease lost", "unavailable", "timeout", "a page"],
)
async def test_a_failed_heartbeat_does_not_end_the_work(
    bench: Bench, answer: httpx.Response | httpx.TransportError
) -> None:
    bench.coordinator.answer("POST", "/heartbeat", answer)
    seen = wait_for_heartbeat(bench)
    await bench.round_work().do([bench.held("alice")])
    assert seen.is_set()
    assert bench.on_disk("alice").pending is None


@pytest.mark.parametrize(
    "kind", [ProblemType.ROUND_CLOSED, ProblemType.NOT_FOUND, ProblemType.UNAUTHENTICATED]
)
async def test_training_ends_when_a_heartbeat_says_that_nobody_wants_it(
    bench: Bench, kind: ProblemType
) -> None:
    bench.coordinator.answer("POST", "/heartbeat", problem(kind))
    train_until_stopped(bench)
    held, before = bench.held("alice"), bench.file("alice")
    assert await bench.round_work().do([held])
    assert bench.method.trained == []
    assert bench.coordinator.updates() == []
    assert bench.file("alice") == before


async def test_training_goes_on_for_the_clients_whose_round_is_not_over(bench: Bench) -> None:
    bench.coordinator.answer("POST", "/heartbeat", problem(ProblemType.ROUND_CLOSED))
    wait_for_heartbeat(bench, number=4)
    await bench.round_work().do([bench.held(name) for name in ("alice", "bob")])
    assert [name for name, _ in bench.method.trained] == ["alice", "bob"]


async def test_a_lost_lease_is_asked_for_again_until_the_round_is_over(bench: Bench) -> None:
    lost, closed = problem(ProblemType.LEASE_LOST), problem(ProblemType.ROUND_CLOSED)
    bench.coordinator.answer("POST", "/heartbeat", lost, lost, closed)
    train_until_stopped(bench)
    with structlog.testing.capture_logs() as logs:
        await bench.round_work().do([bench.held("alice")])
    assert bench.method.trained == []
    assert len([one for one in logs if one["event"] == "heartbeat failed"]) == 2


async def test_no_heartbeat_outlives_the_work(bench: Bench) -> None:
    leak(bench, "embedding")
    before = asyncio.all_tasks()
    with contextlib.suppress(ValueError):
        await bench.round_work().do([bench.held(name) for name in ("alice", "bob")])
    assert asyncio.all_tasks() == before
