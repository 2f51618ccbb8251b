"""A worker one of whose clients changes more than the federation's policy takes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlalchemy import select

from coordinator.store.tables import ClientRow
from tests.support.coordinator import RunningCoordinator
from tests.support.hosted_clients import client_config, stub_parts
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from worker.methods.interface import Participant
from worker.rounds import loop
from worker.settings import WorkerConfig, WorkerSettings

pytestmark = pytest.mark.integration

_TIMEOUT_SECONDS = 120


async def worker_config(coordinator: RunningCoordinator, folder: Path, *names: str) -> WorkerConfig:
    clients = []
    for name in names:
        token = await coordinator.invite("tiny", name)
        clients.append(client_config(folder, name, enrolment_token=token))
    return WorkerConfig(
        coordinator_url="http://coordinator", federation="tiny", clients=tuple(clients)
    )


async def sleep_shortly(seconds: float) -> None:
    await asyncio.sleep(seconds / 10)


async def until(condition: Callable[[], Awaitable[bool]], working: asyncio.Task[None]) -> None:
    while not await condition():
        assert not working.done(), working.exception()
        await asyncio.sleep(0.01)


async def test_a_refused_client_neither_ends_its_worker_nor_holds_up_the_rounds(
    coordinator: RunningCoordinator, tmp_path: Path
) -> None:
    specification = tiny_specification(max_update_norm=10.0, on_excess="reject")
    await coordinator.create(specification)
    config = await worker_config(coordinator, tmp_path, "modest", "wild")
    method = StubMethod(specification.parameters)

    def change(participant: Participant) -> None:
        size = 1e6 if participant.name == "wild" else 0.1
        for tensor in specification.parameters.tensors:
            method.extra_deltas[tensor.name] = np.full(tensor.shape, size, np.float32)

    method.before_step = change
    settings = WorkerSettings(poll_wait_seconds=0.0, device="cpu")
    parts = stub_parts(method, httpx.ASGITransport(coordinator.app), sleep_shortly)
    working = asyncio.create_task(loop.run(config, settings, threading.Event(), parts))
    metrics = coordinator.context.metrics
    refused, recorded = metrics.updates_refused, metrics.updates_recorded

    async def both_have_asked_for_work() -> bool:
        """Then a round takes both: a client that has only enrolled is not waited for."""
        asked = select(ClientRow.id).where(ClientRow.last_seen_at >= ClientRow.enrolled_at)
        async with coordinator.context.database.reading() as session:
            return len((await session.scalars(asked)).all()) == 2

    async def both_are_answered(number: int) -> bool:
        return refused._value.get() == recorded._value.get() == number

    async def is_committed(number: int) -> bool:
        """Long before its deadline: the client has declined the round."""
        await coordinator.driver.step()
        shown = await coordinator.show(f"tiny/rounds/{number}")
        return bool(shown["phase"] == "committed")

    async with asyncio.timeout(_TIMEOUT_SECONDS):
        await until(both_have_asked_for_work, working)
        assert (await coordinator.act("tiny", "start")).status_code == 200
        for number in (1, 2):
            await coordinator.driver.step()
            await until(partial(both_are_answered, number), working)
            await until(partial(is_committed, number), working)
        await working
    assert (await coordinator.show("tiny"))["state"] == "finished"
    rounds = await coordinator.show("tiny/rounds")
    assert [(one["phase"], one["updates_received"]) for one in rounds] == [("committed", 1)] * 2
    (wild,) = [
        one
        for one in (await coordinator.show("tiny/rounds/1"))["assignments"]
        if one["client"] == "wild"
    ]
    assert wild["reason"].startswith("the coordinator refuses its update: the update's norm is")
    assert refused._value.get() == 2, "each refused update was sent once"
    assert sorted(method.trained) == [
        (name, number) for name in ("modest", "wild") for number in (1, 2)
    ]
