"""A worker's loop before a fake coordinator, over a folder that outlasts it."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.support.fake_coordinator import FakeCoordinator, Request
from tests.support.hosted_clients import saved_state, stub_parts, worker_config
from tests.support.round_bench import Killed
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from tests.support.waiting import RecordedSleep
from worker.remote.patience import Sleep
from worker.rounds import loop
from worker.settings import WorkerSettings
from worker.site.private_state import PrivateState
from worker.site_policy import SitePolicy


class Worker:
    """Runs the loop as often as a test starts it, always over the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.coordinator = FakeCoordinator(tiny_specification())
        self.method = StubMethod(self.coordinator.specification.parameters)
        self.policy = SitePolicy()
        self.stop = threading.Event()
        self.settings = WorkerSettings(poll_wait_seconds=0.0, device="cpu")
        self.sleep: Sleep = RecordedSleep()

    async def run(self, *names: str, **seconds: float) -> None:
        config = worker_config(self.folder, "tiny", *names)
        config = config.model_copy(update={"policy": self.policy})
        parts = stub_parts(self.method, self.coordinator.transport, self.sleep)
        await loop.run(config, self.settings, self.stop, parts, **seconds)

    def kill_at(self, method: str, path: str) -> None:
        def kill(request: Request) -> None:
            if request.method == method and request.url.path.endswith(path):
                raise Killed

        self.coordinator.receive = kill

    def stop_at(self, method: str, path: str) -> None:
        def set_stop(request: Request) -> None:
            if request.method == method and request.url.path.endswith(path):
                self.stop.set()

        self.coordinator.receive = set_stop

    def on_disk(self, name: str) -> PrivateState:
        state = saved_state(self.coordinator, self.folder, name)
        assert state is not None
        return state

    def polls(self, name: str) -> int:
        """How often a client asked for work."""
        polls = self.coordinator.asked("GET", "/task")
        return sum(poll.headers["Authorization"].endswith(f"-{name}") for poll in polls)
