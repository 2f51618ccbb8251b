"""Leases that are kept alive while a round is worked on."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import httpx
import pytest

from shared.rest.problems import ProblemType
from tests.support.fake_coordinator import Request, problem, unavailable
from tests.support.round_bench import Bench, leak
from worker.methods.interface import Participant


def wait_for_heartbeat(bench: Bench) -> asyncio.Event:
    """Makes training last until a heartbeat was seen."""
    seen, released = asyncio.Event(), threading.Event()

    def note(request: Request) -> None:
        if request.url.path.endswith("/heartbeat"):
            seen.set()
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


async def test_no_heartbeat_outlives_the_work(bench: Bench) -> None:
    leak(bench, "embedding")
    before = asyncio.all_tasks()
    with contextlib.suppress(ValueError):
        await bench.round_work().do([bench.held(name) for name in ("alice", "bob")])
    assert asyncio.all_tasks() == before
