"""A federation of two workers and two coordinators, of which any process may be replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from shared.federation.specification import EncodingPlan, FederationSpecification, RoundPolicy
from tests.support.balancer import balancer
from tests.support.federation_folder import (
    Supervised,
    child_environment,
    make_federation,
    reserved_port,
)
from tests.support.processes import PROJECT, worker_toml
from tests.support.tiny_images import tiny_data, write_tiny_images
from worker.operations.specification import build_specification

FEDERATION = "chaos"
CLIENTS = ("site-a", "site-b")
_LOOK_AGAIN_SECONDS = 0.1


def specified(rounds: int) -> FederationSpecification:
    """Every round waits for both clients: so its weights do not depend on who is late."""
    return build_specification(
        FEDERATION,
        method="hyperfl",
        model="tests.support.extractors:tiny",
        image_shape=(1, 4, 4),
        num_classes=10,
        hyperparameters={"hidden_size": 8, "epochs": 1, "batch_size": 10},
        round_policy=RoundPolicy(
            rounds=rounds, minimum_updates=len(CLIENTS), lease_seconds=5.0, evaluate_final=False
        ),
        encoding=EncodingPlan(name="factored"),
        seed=1,
    )


@dataclass(frozen=True)
class TwoWorkers:
    """The running processes, and an administrator's way to whichever coordinator lives."""

    coordinators: tuple[Supervised, ...]
    workers: tuple[Supervised, ...]
    http: httpx.AsyncClient

    @property
    def processes(self) -> tuple[Supervised, ...]:
        return (*self.coordinators, *self.workers)

    async def look(self) -> dict[str, Any]:
        """The federation, once every process that was killed is started again; {} if none says."""
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        for process in self.processes:
            process.look_after()
        try:
            answer = await self.http.get(f"/v1/federations/{FEDERATION}")
        except httpx.TransportError:
            return {}
        return answer.json() if answer.status_code == 200 else {}

    async def finished(self, within_seconds: float) -> str:
        """The last weights' digest, once federation and workers have ended."""
        async with asyncio.timeout(within_seconds):
            while (shown := await self.look()).get("state", "running") == "running":
                pass
            rounds = await self.http.get(f"/v1/federations/{FEDERATION}/rounds")
            codes = [await asyncio.to_thread(one.wait) for one in self.workers]
        assert shown["state"] == "finished", shown
        assert codes == [0] * len(codes), "workers end by themselves when the federation has"
        assert {one["phase"] for one in rounds.json()} == {"committed"}
        assert {one["updates_received"] for one in rounds.json()} == {len(CLIENTS)}
        digest: str = shown["weights_digest"]
        return digest


@asynccontextmanager
async def two_workers(
    folder: Path, rounds: int, database_url: str | None = None, **environment: str
) -> AsyncIterator[TwoWorkers]:
    """Two coordinators on one database, behind a balancer, and a worker for each client."""
    folder.mkdir()
    write_tiny_images(folder / "images")
    data = tiny_data("images", len(CLIENTS))
    await make_federation(folder, specified(rounds), CLIENTS, data, database_url=database_url)
    for index, client in enumerate(CLIENTS):
        one = worker_toml(
            "http://replaced", FEDERATION, {client: "used"}, data.format(index=index), seed=index
        )
        (folder / f"{client}.toml").write_text(one)
    options = () if database_url is None else ("--database-url", database_url)
    token = (folder / "coordinator" / "admin-token").read_text().strip()
    with ExitStack() as stack:
        ports = [stack.enter_context(reserved_port()) for _ in range(2)]
        async with AsyncExitStack() as asynchronous:
            url = await asynchronous.enter_async_context(
                balancer([("127.0.0.1", port) for port in ports])
            )
            stack.enter_context(
                child_environment(
                    PYTHONPATH=str(PROJECT),
                    HYPERFL_COORDINATOR_URL=url,
                    HYPERFL_AGGREGATION_LEASE_SECONDS="1",
                    HYPERFL_TICK_SECONDS="0.1",
                    HYPERFL_DEVICE="cpu",
                    **environment,
                )
            )
            serve = ("coordinator", "serve", "--data-dir", str(folder / "coordinator"), *options)
            coordinators = tuple(
                Supervised(stack, folder, f"coordinator-{index}", *serve, "--port", str(port))
                for index, port in enumerate(ports)
            )
            workers = tuple(
                Supervised(
                    stack, folder, client, *("worker", "run", "--config", f"{folder}/{client}.toml")
                )
                for client in CLIENTS
            )
            http = await asynchronous.enter_async_context(
                httpx.AsyncClient(
                    base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=10
                )
            )
            yield TwoWorkers(coordinators, workers, http)
