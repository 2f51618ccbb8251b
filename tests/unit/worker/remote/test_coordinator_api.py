"""The REST client: what it asks, and what it makes of each answer."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from shared.rest.schema import Task
from shared.rest.worker_about import WorkerAbout
from shared.tensors import codec
from tests.support.api_calls import CALLS, FEDERATION, every_call
from tests.support.fake_coordinator import URL, FakeCoordinator
from worker.remote.coordinator_api import CoordinatorApi


@pytest.mark.parametrize("name", [name for name in CALLS if name != "enrol"])
async def test_the_credential_is_in_the_authorization_header_and_nowhere_else(
    coordinator: FakeCoordinator, client: CoordinatorApi, task: Task, tmp_path: Path, name: str
) -> None:
    coordinator.add_version(1)
    await every_call(task, tmp_path)[name](client)
    (request,) = coordinator.requests
    assert request.headers.pop("Authorization") == "Bearer credential-of-alice"
    assert "credential-of-alice" not in f"{request.url} {request.headers} {request.content!r}"


async def test_enrolment_sends_its_token_in_the_body_alone(coordinator: FakeCoordinator) -> None:
    client = CoordinatorApi(coordinator.address, credential=None)
    reply = await client.enrol("token-of-alice", FEDERATION, "alice")
    await client.close()
    (request,) = coordinator.requests
    assert (request.method, request.url) == ("POST", f"{URL}/v1/enrolments")
    assert "Authorization" not in request.headers
    assert "token-of-alice" not in f"{request.url} {request.headers}"
    assert json.loads(request.content) == {
        "enrolment_token": "token-of-alice",
        "federation": FEDERATION,
        "client": "alice",
    }
    assert (reply.federation, reply.client, reply.credential) == (
        FEDERATION,
        "alice",
        "credential-of-alice",
    )


async def test_a_poll_says_how_long_it_waits_and_returns_the_task(
    coordinator: FakeCoordinator, client: CoordinatorApi, task: Task
) -> None:
    assert await client.next_task(FEDERATION, 20.0) == task
    (request,) = coordinator.requests
    assert (request.method, request.url) == ("GET", f"{URL}/v1/federations/tiny/task?wait=20.0")
    assert request.extensions["timeout"]["read"] == 25.0


async def test_a_poll_says_what_the_worker_is(
    coordinator: FakeCoordinator, client: CoordinatorApi, task: Task
) -> None:
    about = WorkerAbout(worker_version="0.2.0", device="cuda, NVIDIA H200")
    assert await client.next_task(FEDERATION, 0.0, about) == task
    (request,) = coordinator.requests
    assert dict(request.url.params) == {
        "wait": "0.0",
        "worker_version": "0.2.0",
        "device": "cuda, NVIDIA H200",
    }


async def test_a_poll_without_work_returns_none(
    coordinator: FakeCoordinator, client: CoordinatorApi
) -> None:
    coordinator.answer("GET", "/task", httpx.Response(204, headers={"Retry-After": "1"}))
    assert await client.next_task(FEDERATION, 0.0) is None


async def test_members_that_a_newer_coordinator_adds_are_passed_over(
    coordinator: FakeCoordinator, client: CoordinatorApi, task: Task
) -> None:
    reply = task.model_dump(mode="json") | {"priority": "high"}
    coordinator.answer("GET", "/task", httpx.Response(200, json=reply))
    assert await client.next_task(FEDERATION, 0.0) == task


async def test_a_heartbeat_names_round_and_attempt(
    coordinator: FakeCoordinator, client: CoordinatorApi, task: Task
) -> None:
    reply = await client.heartbeat(task.model_copy(update={"attempt": 4}))
    (request,) = coordinator.requests
    assert request.method == "POST"
    assert request.url.path == "/v1/federations/tiny/rounds/3/heartbeat"
    assert json.loads(request.content) == {"attempt": 4}
    assert reply.lease_seconds == task.lease_seconds


async def test_an_update_is_put_as_it_is(
    coordinator: FakeCoordinator, client: CoordinatorApi, task: Task
) -> None:
    receipt = await client.put_update(task.model_copy(update={"attempt": 2}), b"\x00update")
    (request,) = coordinator.requests
    assert (request.method, request.url) == (
        "PUT",
        f"{URL}/v1/federations/tiny/rounds/3/updates/alice?attempt=2",
    )
    assert request.headers["Content-Type"] == codec.MEDIA_TYPE
    assert request.content == b"\x00update"
    assert receipt.size_bytes == 7
