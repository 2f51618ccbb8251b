"""A task group between a fake coordinator, a stub method and a folder of states."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from shared.federation.specification import EncodingName
from tests.support.clock import ManualClock
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.hosted_clients import hosted_client, saved_state
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from tests.support.waiting import RecordedSleep
from worker.metrics import WorkerMetrics
from worker.remote.patience import Patience, Sleep
from worker.remote.weights_cache import WeightsCache
from worker.rounds.held_task import HeldTask
from worker.rounds.policy_gate import PolicyGate
from worker.rounds.progress import RoundProgress
from worker.rounds.round_work import RoundWork
from worker.rounds.update_writer import PlainWriter
from worker.site.private_state import FILE_NAME, PrivateState
from worker.site_policy import SitePolicy

BIAS = "hypernetwork.output.bias"


class Killed(Exception):
    """Ends a worker as a crash would, between two requests."""


@dataclass
class Bench:
    """A task group between a fake coordinator, a stub method and a folder of states."""

    folder: Path
    encoding: EncodingName = "dense"
    stop: threading.Event = field(default_factory=threading.Event)
    policy: SitePolicy = field(default_factory=SitePolicy)
    clock: ManualClock = field(default_factory=ManualClock)
    progress: RoundProgress | None = None

    def __post_init__(self) -> None:
        self.coordinator = FakeCoordinator(tiny_specification(encoding=self.encoding))
        self.method = StubMethod(self.coordinator.specification.parameters)
        self.sleep = RecordedSleep()
        self.metrics = WorkerMetrics()
        self.heartbeat_sleep: Sleep = asyncio.sleep
        self.beats_after: list[float] = []
        self.groups: list[RoundWork] = []

    def round_work(self) -> RoundWork:
        """A new worker's group."""
        patience = Patience(60.0, self.sleep)
        specification = self.coordinator.specification
        cache = WeightsCache(self.folder / "weights", specification, patience)
        gate = PolicyGate(self.policy, specification.training, self.clock)
        self.groups.append(
            RoundWork(
                PlainWriter(specification),
                self.method,
                cache,
                patience,
                self.stop,
                gate,
                self.metrics,
                self.heartbeat_sleep,
                self.progress,
            )
        )
        return self.groups[-1]

    def held(self, name: str, state: dict[str, Any] | None = None, **task: Any) -> HeldTask:
        """A client with a task; ``state`` replaces entries of its first state."""
        client = hosted_client(self.coordinator, self.folder, name)
        client.save(replace(client.state, **state or {}))
        return HeldTask(client, self.coordinator.add_task(name, **task))

    def on_disk(self, name: str) -> PrivateState:
        state = saved_state(self.coordinator, self.folder, name)
        assert state is not None
        return state

    def file(self, name: str) -> bytes:
        return (self.folder / name / FILE_NAME).read_bytes()

    def restarted(self, name: str) -> HeldTask:
        """The client of the next worker, with the task it is still to do."""
        client = hosted_client(self.coordinator, self.folder, name)
        return HeldTask(client, self.coordinator.tasks[name][0])


def leak(bench: Bench, name: str) -> None:
    bench.method.extra_deltas[name] = np.ones(3, np.float32)
