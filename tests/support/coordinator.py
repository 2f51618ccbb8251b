"""A coordinator in this process: the real application and database, HTTP without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from coordinator.access.admin_token import ensure_admin_token
from coordinator.access.identity import identify
from coordinator.app import create_app
from coordinator.context import Context
from coordinator.database.migrate import migrate
from coordinator.operations import clients
from coordinator.rounds.driver import Driver
from coordinator.settings import CoordinatorSettings
from coordinator.store import clients as client_store
from coordinator.store import federations as federation_store
from coordinator.store.blobs import CHUNK_BYTES
from shared.federation.specification import FederationSpecification
from shared.rest.worker_about import WorkerAbout
from shared.tensors.codec import MEDIA_TYPE
from tests.support.clock import ManualClock

SMALL_CHUNK_BYTES = 200
small_chunks = pytest.mark.parametrize("chunk_bytes", [SMALL_CHUNK_BYTES], ids=["small-chunks"])
"""The fixture ``coordinator`` stores small chunks: every blob has several, so that some are written
before it is sealed."""

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what is the same on every database: the other one would be asked the same queries again."""


@dataclass
class RunningCoordinator:
    """The application with a manual clock; its driver steps when the test says so."""

    app: FastAPI
    http: httpx.AsyncClient
    clock: ManualClock
    admin: dict[str, str]
    driver: Driver
    credentials: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def context(self) -> Context:
        context: Context = self.app.state.context
        return context

    async def restart(self) -> None:
        """Ends it and starts another in its place, with the same settings and clock."""
        ended = self.context
        await self.close()
        self.app = create_app(ended.settings, self.clock, chunk_bytes=ended.blobs.chunk_bytes)
        self.context.driver_pulse.beat()
        self.http = _client_of(self.app)
        self.driver = Driver(self.context)

    async def close(self) -> None:
        await self.http.aclose()
        await self.context.database.close()

    async def create(self, specification: FederationSpecification) -> dict[str, Any]:
        response = await self.http.post(
            "/v1/federations",
            content=specification.model_dump_json(),
            headers=self.admin | {"Content-Type": "application/json"},
        )
        assert response.status_code == 201, response.text
        created: dict[str, Any] = response.json()
        return created

    async def invite(self, federation: str, name: str) -> str:
        """The enrolment token."""
        invited = await self.http.post(
            f"/v1/federations/{federation}/clients", json={"name": name}, headers=self.admin
        )
        assert invited.status_code == 201, invited.text
        token: str = invited.json()["enrolment_token"]
        return token

    async def enrol(self, federation: str, *names: str) -> None:
        """Enrols clients, which ask for work once.

        Without HTTP, which other tests speak: most need clients and have another subject.
        """
        for name in names:
            invited = await clients.invite(self.context, federation, name)
            enrolled = await clients.enrol(self.context, invited.enrolment_token)
            authorization = f"Bearer {enrolled.credential}"
            await identify(self.context, authorization)
            await self._ask_for_work(federation, name)
            self.credentials[name] = {"Authorization": authorization}

    async def _ask_for_work(self, federation: str, name: str) -> None:
        async with self.context.database.writing() as session:
            row = await federation_store.find_by_name(session, federation)
            client = await client_store.find(session, row, name)
            await client_store.mark_seen(session, client.id, self.clock(), WorkerAbout())

    async def act(self, federation: str, action: str) -> httpx.Response:
        return await self.http.patch(
            f"/v1/federations/{federation}", json={"action": action}, headers=self.admin
        )

    async def started(self, specification: FederationSpecification, *names: str) -> None:
        """A federation with enrolled clients and its first round open."""
        await self.create(specification)
        await self.enrol(specification.name, *names)
        response = await self.act(specification.name, "start")
        assert response.status_code == 200, response.text
        await self.driver.step()

    async def poll(self, federation: str, client: str) -> httpx.Response:
        return await self.http.get(
            f"/v1/federations/{federation}/task", headers=self.credentials[client]
        )

    async def task(self, federation: str, client: str) -> dict[str, Any]:
        response = await self.poll(federation, client)
        assert response.status_code == 200, response.text
        task: dict[str, Any] = response.json()
        return task

    async def put(
        self,
        task: dict[str, Any],
        body: bytes | AsyncIterator[bytes],
        *,
        as_client: str | None = None,
        **headers: str,
    ) -> httpx.Response:
        credential = self.credentials[as_client or task["client"]]
        return await self.http.put(
            f"/v1/federations/{task['federation']}/rounds/{task['round_number']}"
            f"/updates/{task['client']}",
            params={"attempt": task["attempt"]},
            content=body,
            headers=credential | {"Content-Type": MEDIA_TYPE} | headers,
        )

    async def show(self, path: str) -> Any:
        response = await self.http.get(f"/v1/federations/{path}", headers=self.admin)
        assert response.status_code == 200, response.text
        return response.json()


@asynccontextmanager
async def running_coordinator(
    database_url: str,
    folder: Path,
    clock: ManualClock | None = None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    **settings: Any,
) -> AsyncIterator[RunningCoordinator]:
    """Migrates the database and serves from it; the driver does not run by itself."""
    migrate(database_url)
    clock = clock or ManualClock()
    configured = CoordinatorSettings(
        database_url=database_url, data_dir=folder / "coordinator", **settings
    )
    app = create_app(configured, clock, chunk_bytes=chunk_bytes)
    context: Context = app.state.context
    file = configured.effective_admin_token_file
    await ensure_admin_token(context.database, file, clock())
    admin = {"Authorization": f"Bearer {file.read_text().strip()}"}
    context.driver_pulse.beat()
    running = RunningCoordinator(app, _client_of(app), clock, admin, Driver(context))
    try:
        yield running
    finally:
        await running.close()


def _client_of(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://coordinator")
