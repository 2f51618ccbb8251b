"""A started federation in a folder, made in this process, and the real processes that finish it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.federation.specification import FederationSpecification
from shared.tensors import codec
from tests.support.coordinator import running_coordinator
from tests.support.crash_points import crash_environment
from tests.support.processes import worker_toml
from worker.demo.processes import BackgroundProcess, run_in_background

_TIMEOUT_SECONDS = 600.0
"""So long that only what hangs is ended: other work on the machine makes everything slow."""

_LOOK_AGAIN_SECONDS = 0.1


async def make_federation(
    folder: Path,
    specification: FederationSpecification,
    clients: Sequence[str],
    data: str,
    *,
    database_url: str | None = None,
    others: tuple[str, ...] = (),
) -> dict[str, dict[str, str]]:
    """A database with the federation started, and a worker's file with its clients enrolled.

    Returns the headers that ``others``, who have no worker, send as their credentials.
    """
    (folder / "coordinator").mkdir(parents=True, exist_ok=True)
    url = database_url or f"sqlite:///{folder / 'coordinator' / 'hyperfl.db'}"
    async with running_coordinator(url, folder) as coordinator:
        await coordinator.create(specification)
        await coordinator.enrol(specification.name, *clients, *others)
        started = await coordinator.act(specification.name, "start")
        assert started.status_code == 200, started.text
        credentials = coordinator.credentials
    config = worker_toml(
        "http://replaced", specification.name, dict.fromkeys(clients, "used"), data
    )
    if specification.protection is not None:
        config = "policy = { minimum_trusted_peers = 0 }\n" + config
    (folder / "worker.toml").write_text(config)
    for client in clients:
        state = folder / "state" / client
        state.mkdir(parents=True)
        credential = credentials[client]["Authorization"].removeprefix("Bearer ")
        (state / "credential").write_text(credential + "\n")
    return {name: credentials[name] for name in others}


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port for a coordinator that is killed and started again, and for nobody else meanwhile.

    It is bound here without listening, so the system gives it to no one who asks for any port;
    a server that asks for this one may listen on it, since both allow the address to be shared.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def child_environment(**values: str) -> Iterator[None]:
    """What processes find in their environment that are started meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


class Supervised:
    """A process that is started again when it was killed."""

    def __init__(self, stack: ExitStack, folder: Path, name: str, *arguments: str) -> None:
        self._stack, self._folder, self._name, self._arguments = stack, folder, name, arguments
        self.deaths = 0
        self._process = self._start()

    def _start(self) -> BackgroundProcess:
        name = f"{self._name}-{self.deaths}"
        return self._stack.enter_context(run_in_background(name, self._folder, *self._arguments))

    def look_after(self) -> None:
        """Starts it again after a SIGKILL; any other failure is one of the test."""
        if self._process.process.poll() == -9:
            self.deaths += 1
            self._process = self._start()
        self._process.check_alive()

    def kill(self) -> bool:
        """Kills it at once, as a power failure would; false if it has ended by itself."""
        if self._process.process.poll() is not None:
            return False
        self._process.process.kill()
        self._process.process.wait()
        return True

    def wait(self) -> int:
        """Its exit code."""
        return self._process.process.wait(_TIMEOUT_SECONDS)


def finish_federation(folder: Path, federation: str, crash_point: str = "") -> dict[str, Any]:
    """Runs coordinator and worker until the federation has ended, whoever is killed meanwhile.

    Returns the federation, with its ``rounds``, its last ``weights`` and ``deaths`` of either
    process.
    """
    with ExitStack() as stack:
        port = stack.enter_context(reserved_port())
        url = f"http://127.0.0.1:{port}"
        stack.enter_context(
            child_environment(
                **crash_environment(crash_point, folder / "crashed"),
                HYPERFL_COORDINATOR_URL=url,
                HYPERFL_AGGREGATION_LEASE_SECONDS="1",
                HYPERFL_TICK_SECONDS="0.1",
                HYPERFL_DEVICE="cpu",
            )
        )
        coordinator = Supervised(
            stack,
            folder,
            "coordinator",
            *("coordinator", "serve", "--port", str(port)),
            *("--data-dir", str(folder / "coordinator")),
        )
        worker = Supervised(
            stack, folder, "worker", "worker", "run", "--config", str(folder / "worker.toml")
        )
        token = (folder / "coordinator" / "admin-token").read_text().strip()
        admin = stack.enter_context(
            httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"})
        )
        give_up_at = time.monotonic() + _TIMEOUT_SECONDS
        shown: dict[str, Any] = {"state": "running"}
        while shown["state"] == "running":
            assert time.monotonic() < give_up_at, f"still not finished: {shown}"
            time.sleep(_LOOK_AGAIN_SECONDS)
            coordinator.look_after()
            worker.look_after()
            try:
                shown = admin.get(f"/v1/federations/{federation}").json()
            except httpx.TransportError:  # it is dead, or starts
                continue
        path = f"/v1/federations/{federation}"
        shown["rounds"] = admin.get(f"{path}/rounds").json()
        served = admin.get(f"{path}/weights/{shown['weights_version']}")
        shown["weights"], _ = codec.decode(served.content)
        assert worker.wait() == 0, "the worker ends by itself when the federation has"
        shown["deaths"] = {"coordinator": coordinator.deaths, "worker": worker.deaths}
        return shown
