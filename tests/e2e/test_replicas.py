"""Two coordinators on one database, behind a balancer, under clients that never wait long."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.database.transactions import Database
from shared.federation.specification import FederationSpecification
from shared.rest.schema import FederationState
from shared.tensors.codec import MEDIA_TYPE
from tests.support.balancer import balancer
from tests.support.crash_points import crash_environment
from tests.support.federation_folder import child_environment
from tests.support.ledger import Ledger, read_ledger
from tests.support.oracle import Oracle, SentUpdate, check_versions
from tests.support.postgres import new_database
from tests.support.processes import ServingCoordinator, serving_coordinator
from tests.support.specifications import tiny_specification
from tests.support.updates import random_deltas, update_bytes

pytestmark = pytest.mark.e2e

_RETRY_SECONDS = 0.1
_POLL_SECONDS = 5
_TIMEOUT_SECONDS = 1800
_CLOSED = {"urn:hyperfl:problem:round-closed", "urn:hyperfl:problem:lease-lost"}


def _serve(
    stack: ExitStack, folder: Path, database_url: str, crash_point: str = ""
) -> ServingCoordinator:
    folder.mkdir()
    with child_environment(
        **crash_environment(crash_point, folder / "crashed"),
        HYPERFL_AGGREGATION_LEASE_SECONDS="1",
        HYPERFL_TICK_SECONDS="0.1",
    ):
        return stack.enter_context(serving_coordinator(folder, "--database-url", database_url))


class _Load:
    """Clients of one federation that poll, send and try again until it has ended."""

    def __init__(self, url: str, admin_token: str, specification: FederationSpecification) -> None:
        self.oracle = Oracle(specification)
        self.answers: Counter[int] = Counter()
        self._specification = specification
        self._path = f"/v1/federations/{specification.name}"
        self._admin = {"Authorization": f"Bearer {admin_token}"}
        self._url = url

    async def run(self, num_clients: int) -> dict[str, Any]:
        """The federation once it has ended."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._url, limits=limits, timeout=30) as http:
            await self._insist(
                http,
                "POST",
                "/v1/federations",
                content=self._specification.model_dump_json(),
                headers=self._admin | {"Content-Type": "application/json"},
            )
            names = [f"client-{number:02d}" for number in range(num_clients)]
            credentials = [await self._enrol(http, name) for name in names]
            await self._insist(
                http, "PATCH", self._path, json={"action": "start"}, headers=self._admin
            )
            await asyncio.gather(*(self._work(http, credential) for credential in credentials))
            shown = await self._insist(http, "GET", self._path, headers=self._admin)
        federation: dict[str, Any] = shown.json()
        return federation

    async def _insist(
        self, http: httpx.AsyncClient, method: str, path: str, **request: Any
    ) -> httpx.Response:
        """An answer, from whichever coordinator lives."""
        while True:
            try:
                response = await http.request(method, path, **request)
            except httpx.TransportError:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            assert response.status_code < 500, response.text
            self.answers[response.status_code] += 1
            return response

    async def _enrol(self, http: httpx.AsyncClient, name: str) -> dict[str, str]:
        invited = await self._insist(
            http, "POST", f"{self._path}/clients", json={"name": name}, headers=self._admin
        )
        token = {"enrolment_token": invited.json()["enrolment_token"]}
        enrolled = await self._insist(http, "POST", "/v1/enrolments", json=token)
        return {"Authorization": f"Bearer {enrolled.json()['credential']}"}

    async def _work(self, http: httpx.AsyncClient, credential: dict[str, str]) -> None:
        wait = {"wait": _POLL_SECONDS}
        while True:
            polled = await self._insist(
                http, "GET", f"{self._path}/task", params=wait, headers=credential
            )
            if polled.status_code == 410:
                return
            if polled.status_code == 200:
                await self._send(http, credential, polled.json())

    async def _send(
        self, http: httpx.AsyncClient, credential: dict[str, str], task: dict[str, Any]
    ) -> None:
        index, number = int(task["client"].removeprefix("client-")), task["round_number"]
        deltas = random_deltas(self._specification, seed=1000 * number + index)
        body = update_bytes(self._specification, task, deltas, num_examples=index + 1)
        self.oracle.note_sent(body, SentUpdate(task["client"], index + 1, deltas))
        answer = await self._insist(
            http,
            "PUT",
            f"{self._path}/rounds/{number}/updates/{task['client']}",
            params={"attempt": task["attempt"]},
            content=body,
            headers=credential | {"Content-Type": MEDIA_TYPE},
        )
        assert answer.is_success or answer.json()["type"] in _CLOSED, answer.text


async def _run_behind_balancer(
    replicas: list[ServingCoordinator], database_url: str, num_rounds: int, num_clients: int
) -> tuple[_Load, Ledger]:
    """Runs a federation to its end; every version is checked against the updates recorded."""
    specification = tiny_specification(
        "loaded", rounds=num_rounds, cohort_size=num_clients, minimum_updates=num_clients
    )
    backends = []
    for replica in replicas:
        address = httpx.URL(replica.url)
        assert address.port is not None
        backends.append((address.host, address.port))
    token = replicas[0].admin_token_file.read_text().strip()
    async with balancer(backends) as url, asyncio.timeout(_TIMEOUT_SECONDS):
        load = _Load(url, token, specification)
        federation = await load.run(num_clients)
    assert federation["state"] == FederationState.FINISHED
    database = Database(database_url)
    try:
        ledger = await read_ledger(database, specification.name)
    finally:
        await database.close()
    check_versions(ledger, load.oracle)
    assert [one.phase for one in ledger.rounds] == ["committed"] * num_rounds, "no round is lost"
    assert {len(one.updates) for one in ledger.rounds} == {num_clients}
    return load, ledger


@pytest.fixture
def postgresql_database_url(postgres_url: str) -> Iterator[str]:
    yield from new_database(postgres_url)


@pytest.mark.slow
async def test_a_replica_dies_in_an_aggregation_and_no_round_is_lost_or_counted_twice(
    postgresql_database_url: str, tmp_path: Path
) -> None:
    url = postgresql_database_url
    with ExitStack() as stack:
        first = _serve(stack, tmp_path / "first", url, "weights-written:8")
        second = _serve(stack, tmp_path / "second", url)
        await _run_behind_balancer([first, second], url, 50, 20)
        assert first.process.process.poll() == -9
        assert second.process.process.poll() is None
        log = second.process.log_file.read_text()
        assert "the coordinator that aggregated it stopped" in log


async def test_two_coordinators_on_one_sqlite_file_stay_correct(tmp_path: Path) -> None:
    database_url = f"sqlite:///{tmp_path / 'hyperfl.db'}"
    with ExitStack() as stack:
        replicas = [_serve(stack, tmp_path / name, database_url) for name in ("first", "second")]
        await _run_behind_balancer(replicas, database_url, 4, 5)
        for replica in replicas:
            assert "update recorded" in replica.process.log_file.read_text(), "both took part"
