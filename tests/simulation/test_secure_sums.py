"""Secure sums under lost answers, late and doubled messages, killed members and coordinators.

Every byte that leaves a member is kept: none ever sends two joins, two updates, two confirmations
or two sets of shares for one round. Every committed version is the mean of just its survivors.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from shared.rest.problems import ProblemType
from shared.rest.schema import Task
from shared.tensors import codec
from tests.support.clock import ManualClock
from tests.support.coordinator import RunningCoordinator, running_coordinator
from tests.support.sum_members import (
    SumMember,
    mean_change,
    protected_specification,
    start_protected,
)
from worker.errors import SumRefused

pytestmark = pytest.mark.integration

NAMES = ("a", "b", "c", "d", "e")
"""A cohort of 5 has a threshold of 4: one may drop out."""

_DOCUMENTED = {
    ProblemType.ROUND_CLOSED.urn,
    ProblemType.LEASE_LOST.urn,
    ProblemType.UPDATE_CONFLICT.urn,
    ProblemType.NOT_FOUND.urn,
    ProblemType.MALFORMED_UPDATE.urn,
    ProblemType.STALE_BASE_VERSION.urn,
}


class Simulation:
    """Members of one federation and two coordinators on one database; ``draw`` decides it all."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.draw = random.Random(seed)
        self.clock = ManualClock()
        self.replicas: list[RunningCoordinator] = []
        self.members: list[SumMember] = []
        self.sent: dict[tuple[str, int, str], set[bytes]] = defaultdict(set)
        self.kept: list[tuple[SumMember, Task, bytes]] = []
        self.answers: Counter[str] = Counter()
        self.refused = 0
        self.checked_versions = 0
        self._folder = folder

    async def run(self, num_steps: int) -> None:
        specification = protected_specification(
            rounds=1_000_000, minimum_updates=4, max_failed_rounds=1_000_000
        )
        url = f"sqlite:///{self._folder / 'hyperfl.db'}"
        async with AsyncExitStack() as stack:
            for _ in range(2):
                running = running_coordinator(url, self._folder, self.clock)
                self.replicas.append(await stack.enter_async_context(running))
            self.members = await start_protected(self.replicas[0], specification, *NAMES)
            self.replicas[1].credentials = self.replicas[0].credentials
            for _ in range(num_steps):
                await self._step()
                await self._check_weights()
            await self._check_rounds()

    async def _step(self) -> None:
        member = self.draw.choice(self.members)
        member.coordinator = self.draw.choice(self.replicas)
        match self.draw.choices(
            ["work", "make", "twice", "late", "drive", "restart", "wait"],
            [60, 6, 6, 12, 40, 2, 3],
        )[0]:
            case "work":
                await self._work(member)
            case "make":  # and is killed before it sends: it has saved, nobody has heard
                await self._make(member)
            case "twice":
                await self._work(member, times=2)
            case "late" if self.kept:
                one, task, body = self.draw.choice(self.kept[-40:])
                await self._send(one, task, body)
            case "drive":
                await self.draw.choice(self.replicas).driver.step()
            case "restart":
                await self.draw.choice(self.replicas).restart()
            case "wait":
                self.clock.advance(self.draw.choice([5.0, 61.0, 125.0, 3601.0]))

    async def _make(self, member: SumMember) -> tuple[Task, bytes] | None:
        task = await member.poll()
        if task is None:
            return None
        try:
            body = member.make(task)
        except SumRefused:
            # As after a round whose joining phase it missed.
            self.refused += 1
            return None
        self.sent[member.name, task.round_number, task.kind.value].add(body)
        self.kept.append((member, task, body))
        return task, body

    async def _work(self, member: SumMember, times: int = 1) -> None:
        made = await self._make(member)
        if made is not None:
            for _ in range(times):
                await self._send(member, *made)

    async def _send(self, member: SumMember, task: Task, body: bytes) -> None:
        response = await member.send(task, body)
        if response.is_error:
            problem = response.json()["type"]
            assert problem in _DOCUMENTED, response.text
            self.answers[problem] += 1
        else:
            self.answers[task.kind.value] += 1

    async def _check_weights(self) -> None:
        newest = (await self.replicas[0].show("tiny"))["weights_version"]
        while self.checked_versions < newest:
            self.checked_versions += 1
            (round_,) = [
                one
                for one in await self.replicas[0].show("tiny/rounds?limit=500&first=1")
                if one["new_version"] == self.checked_versions
            ]
            parts = (await self.replicas[0].show(f"tiny/rounds/{round_['number']}"))["assignments"]
            names = {one["client"] for one in parts if one["submitted_at"] is not None}
            assert len(names) >= 4
            survivors = [one for one in self.members if one.name in names]
            change = mean_change(survivors, round_["number"], len(NAMES))
            before, after = (
                await self._weights(self.checked_versions - 1),
                await self._weights(self.checked_versions),
            )
            assert (after == (before.astype(np.float64) + change).astype(np.float32)).all()

    async def _weights(self, version: int) -> np.ndarray:
        at = self.replicas[1]
        path = f"/v1/federations/tiny/weights/{version}"
        response = await at.http.get(path, headers=at.admin)
        arrays, _ = codec.decode(bytearray(response.content))
        return arrays["hypernetwork.output.bias"]

    async def _check_rounds(self) -> None:
        doubled = {what: len(bodies) for what, bodies in self.sent.items() if len(bodies) > 1}
        assert doubled == {}, "a member has sent two messages of one kind for one round"


def _simulate(seed: int, num_steps: int) -> Simulation:
    with tempfile.TemporaryDirectory(prefix="hyperfl-sums-") as folder:
        simulation = Simulation(seed, Path(folder))
        asyncio.run(simulation.run(num_steps))
    return simulation


def test_sums_hold_in_a_short_simulation() -> None:
    simulation = _simulate(seed=1, num_steps=250)
    assert simulation.checked_versions >= 1


@pytest.mark.slow
def test_sums_hold_whatever_happens() -> None:
    answers: Counter[str] = Counter()
    versions = 0
    for seed in range(2, 5):
        simulation = _simulate(seed, num_steps=700)
        answers += simulation.answers
        versions += simulation.checked_versions
    assert versions >= 15
    assert {"join", "train", "confirm", "unmask"} <= answers.keys()
    assert answers[ProblemType.ROUND_CLOSED.urn] > 0
