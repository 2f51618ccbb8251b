"""The REST client: what it asks, and what it makes of each answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from shared.rest.problems import Problem, ProblemType
from shared.rest.schema import Task
from shared.tensors import codec
from tests.support.fake_coordinator import (
    URL,
    FakeCoordinator,
    credential,
    enrolment_token,
    problem,
    weights_file,
)
from tests.support.specifications import tiny_specification
from worker.errors import FederationFinished, Refused, RequestFailed, Unreachable
from worker.remote.coordinator_api import CoordinatorApi

COME_AGAIN = (408, 429, 500, 501, 502, 503, 504, 507, 520)
FEDERATION = "tiny"
MAX_BYTES = 4 << 20

Call = Callable[[CoordinatorApi], Awaitable[object]]


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator(tiny_specification(FEDERATION))


@pytest.fixture
def task(coordinator: FakeCoordinator) -> Task:
    return coordinator.add_task("alice", round_number=3)


@pytest.fixture
async def client(coordinator: FakeCoordinator) -> AsyncIterator[CoordinatorApi]:
    connected = CoordinatorApi(coordinator.address, credential("alice"))
    yield connected
    await connected.close()


def every_call(task: Task, folder: Path) -> dict[str, Call]:
    return {
        "enrol": lambda client: client.enrol(enrolment_token("alice")),
        "fetch_federation": lambda client: client.fetch_federation(FEDERATION),
        "next_task": lambda client: client.next_task(FEDERATION, 0.0),
        "heartbeat": lambda client: client.heartbeat(task),
        "put_update": lambda client: client.put_update(task, b"update"),
        "fetch_weights": lambda client: client.fetch_weights(
            FEDERATION, 1, folder / "weights", max_bytes=MAX_BYTES
        ),
    }


CALLS = ("enrol", "fetch_federation", "next_task", "heartbeat", "put_update", "fetch_weights")


def answer_everything(coordinator: FakeCoordinator, answer: httpx.Response | Exception) -> None:
    for method in ("GET", "POST", "PUT"):
        coordinator.answer(method, "", answer)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "kind", [kind for kind in ProblemType if kind.status not in (*COME_AGAIN, 410)]
)
async def test_a_problem_is_a_refusal_of_its_type(
    coordinator: FakeCoordinator,
    client: CoordinatorApi,
    task: Task,
    tmp_path: Path,
    name: str,
    kind: ProblemType,
) -> None:
    answer_everything(coordinator, problem(kind, "the detail"))
    with pytest.raises(Refused, match="the detail") as raised:
        await every_call(task, tmp_path)[name](client)
    assert not isinstance(raised.value, FederationFinished)
    assert raised.value.problem == Problem.of(kind, "the detail")
    assert raised.value.is_a(ProblemType.FEDERATION_FINISHED, kind)
    assert not raised.value.is_a(*(other for other in ProblemType if other is not kind))
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize("name", CALLS)
async def test_the_end_of_the_federation_is_a_refusal_of_its_own(
    coordinator: FakeCoordinator, client: CoordinatorApi, task: Task, tmp_path: Path, name: str
) -> None:
    answer_everything(coordinator, problem(ProblemType.FEDERATION_FINISHED, "after 60 rounds"))
    with pytest.raises(FederationFinished, match="after 60 rounds"):
        await every_call(task, tmp_path)[name](client)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", COME_AGAIN)
async def test_come_again_is_told_from_a_refusal_by_its_status(
    coordinator: FakeCoordinator,
    client: CoordinatorApi,
    task: Task,
    tmp_path: Path,
    name: str,
    status: int,
) -> None:
    answer_everything(coordinator, httpx.Response(status, headers={"Retry-After": "17"}))
    with pytest.raises(Unreachable, match=str(status)) as raised:
        await every_call(task, tmp_path)[name](client)
    assert raised.value.retry_after_seconds == 17.0


@pytest.mark.parametrize("retry_after", [None, "", "soon", "-3", "²", "nan", "Wed, 21 Oct 2026"])
async def test_a_retry_after_that_is_no_number_of_seconds_is_passed_over(
    coordinator: FakeCoordinator, client: CoordinatorApi, retry_after: str | None
) -> None:
    headers = {} if retry_after is None else {"Retry-After": retry_after.encode()}
    answer_everything(coordinator, httpx.Response(503, headers=headers))
    with pytest.raises(Unreachable) as raised:
        await client.fetch_federation(FEDERATION)
    assert raised.value.retry_after_seconds is None


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("connection refused"),
        httpx.ConnectTimeout("too slow"),
        httpx.ReadTimeout("too slow"),
        httpx.WriteError("broken pipe"),
        httpx.PoolTimeout("busy"),
        httpx.RemoteProtocolError("peer closed"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_broken_connection_is_unreachable(
    coordinator: FakeCoordinator,
    client: CoordinatorApi,
    task: Task,
    tmp_path: Path,
    name: str,
    error: httpx.TransportError,
) -> None:
    answer_everything(coordinator, error)
    with pytest.raises(Unreachable, match=str(error)) as raised:
        await every_call(task, tmp_path)[name](client)
    assert raised.value.retry_after_seconds is None


async def test_a_broken_connection_without_words_is_named_by_its_kind(
    coordinator: FakeCoordinator, client: CoordinatorApi
) -> None:
    answer_everything(coordinator, httpx.ReadError(""))
    with pytest.raises(Unreachable, match="does not answer: ReadError"):
        await client.fetch_federation(FEDERATION)


def of_another_type(status: int) -> httpx.Response:
    content = Problem(type="urn:other:problem", title="No", status=status, detail="not here")
    return httpx.Response(
        status,
        content=content.model_dump_json(),
        headers={"Content-Type": "application/problem+json"},
    )


@pytest.mark.parametrize("error", [httpx.ReadError(""), httpx.RemoteProtocolError("cut off")])
async def test_a_plain_connection_that_is_cut_off_may_have_met_tls(
    coordinator: FakeCoordinator, error: httpx.TransportError
) -> None:
    for scheme, is_hinted in (("http", True), ("https", False)):
        answer_everything(coordinator, error)
        connection = replace(coordinator.address, url=f"{scheme}://coordinator")
        client = CoordinatorApi(connection, credential("alice"))
        with pytest.raises(Unreachable) as raised:
            await client.fetch_federation(FEDERATION)
        await client.close()
        assert ("use an https address" in str(raised.value)) == is_hinted


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", [302, 307, 400, 401, 403, 404, 410, 413, 422])
@pytest.mark.parametrize("kind", ["a page", "another problem"])
async def test_an_answer_that_is_no_coordinators_decides_nothing(
    coordinator: FakeCoordinator,
    client: CoordinatorApi,
    task: Task,
    tmp_path: Path,
    name: str,
    status: int,
    kind: str,
) -> None:
    page = httpx.Response(
        status, html="<h1>It works!</h1>", headers={"Location": "https://elsewhere.test/"}
    )
    answer_everything(coordinator, page if kind == "a page" else of_another_type(status))
    with pytest.raises(Unreachable, match=f"answered {status}, but not as a coordinator does"):
        await every_call(task, tmp_path)[name](client)
    assert len(coordinator.requests) == 1
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize("name", CALLS)
async def test_a_coordinator_that_fails_is_asked_again(
    coordinator: FakeCoordinator, client: CoordinatorApi, task: Task, tmp_path: Path, name: str
) -> None:
    answer_everything(coordinator, problem(ProblemType.INTERNAL, "the detail"))
    with pytest.raises(Unreachable, match="The coordinator failed: the detail"):
        await every_call(task, tmp_path)[name](client)


@pytest.mark.parametrize("name", CALLS)
async def test_a_page_in_place_of_a_reply_decides_nothing(
    coordinator: FakeCoordinator, client: CoordinatorApi, task: Task, tmp_path: Path, name: str
) -> None:
    answer_everything(coordinator, httpx.Response(200, html="<h1>Log in to the network</h1>"))
    with pytest.raises(Unreachable, match="answered 200, but not as a coordinator does"):
        await every_call(task, tmp_path)[name](client)
    assert not (tmp_path / "weights").exists()


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
    reply = await client.enrol("token-of-alice")
    await client.close()
    (request,) = coordinator.requests
    assert (request.method, request.url) == ("POST", f"{URL}/v1/enrolments")
    assert "Authorization" not in request.headers
    assert "token-of-alice" not in f"{request.url} {request.headers}"
    assert json.loads(request.content) == {"enrolment_token": "token-of-alice"}
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


async def test_weights_are_written_to_a_file(
    coordinator: FakeCoordinator, client: CoordinatorApi, tmp_path: Path
) -> None:
    weights = coordinator.add_version(1)
    await client.fetch_weights(FEDERATION, 1, tmp_path / "weights", max_bytes=MAX_BYTES)
    (request,) = coordinator.requests
    assert request.url == f"{URL}/v1/federations/tiny/weights/1"
    assert "Range" not in request.headers
    assert (tmp_path / "weights").read_bytes() == codec.encode(weights)


async def test_what_was_written_before_is_not_asked_for_again(
    coordinator: FakeCoordinator, client: CoordinatorApi, tmp_path: Path
) -> None:
    whole = codec.encode(coordinator.add_version(1))
    file = tmp_path / "weights"
    file.write_bytes(whole[:50])
    await client.fetch_weights(FEDERATION, 1, file, max_bytes=MAX_BYTES)
    assert coordinator.requests[0].headers["Range"] == "bytes=50-"
    assert file.read_bytes() == whole


async def test_a_download_that_broke_off_goes_on_where_it_stopped(
    coordinator: FakeCoordinator, client: CoordinatorApi, tmp_path: Path
) -> None:
    whole = bytes(range(256)) * 6000
    file = tmp_path / "weights"

    async def breaks_off() -> AsyncIterator[bytes]:
        yield whole[:1_200_000]
        raise httpx.ReadError("connection reset")

    coordinator.answer("GET", "/weights/1", weights_file(breaks_off()))
    with pytest.raises(Unreachable, match="connection reset"):
        await client.fetch_weights(FEDERATION, 1, file, max_bytes=MAX_BYTES)
    written = file.read_bytes()
    assert written == whole[: len(written)]
    assert len(written) > 1_000_000
    coordinator.answer("GET", "/weights/1", weights_file(whole[len(written) :], 206))
    await client.fetch_weights(FEDERATION, 1, file, max_bytes=MAX_BYTES)
    assert coordinator.requests[1].headers["Range"] == f"bytes={len(written)}-"
    assert file.read_bytes() == whole


async def trickle() -> AsyncIterator[bytes]:
    """A body of which a little always comes."""
    while True:
        yield b"x"
        await asyncio.sleep(0)


@pytest.mark.parametrize("name", CALLS)
async def test_a_request_that_trickles_is_broken_off(
    coordinator: FakeCoordinator, task: Task, tmp_path: Path, name: str
) -> None:
    transport = httpx.MockTransport(lambda _: weights_file(trickle()))
    connection = replace(coordinator.address, transfer_seconds=0.05, transport=transport)
    client = CoordinatorApi(connection, credential("alice"))
    with pytest.raises(Unreachable, match=r"was not complete after 0\.05 s"):
        await every_call(task, tmp_path)[name](client)
    await client.close()


async def test_a_server_without_ranges_sends_the_whole_over_the_part(
    coordinator: FakeCoordinator, client: CoordinatorApi, tmp_path: Path
) -> None:
    whole = codec.encode(coordinator.add_version(1))
    file = tmp_path / "weights"
    file.write_bytes(whole[:50])
    coordinator.answer("GET", "/weights/1", weights_file(whole))
    await client.fetch_weights(FEDERATION, 1, file, max_bytes=MAX_BYTES)
    assert file.read_bytes() == whole


async def test_come_again_leaves_the_part_as_it_is(
    coordinator: FakeCoordinator, client: CoordinatorApi, tmp_path: Path
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"part")
    coordinator.answer("GET", "/weights/1", httpx.Response(503, text="down for a minute"))
    with pytest.raises(Unreachable):
        await client.fetch_weights(FEDERATION, 1, file, max_bytes=MAX_BYTES)
    assert file.read_bytes() == b"part"


async def test_deltas_are_asked_for_from_a_version_on_and_never_in_parts(
    coordinator: FakeCoordinator, client: CoordinatorApi, tmp_path: Path
) -> None:
    coordinator.add_version(3)
    coordinator.chains[1, 3] = b"deltas"
    file = tmp_path / "deltas"
    file.write_bytes(b"of another day")
    await client.fetch_weights(FEDERATION, 3, file, since=1, max_bytes=MAX_BYTES)
    (request,) = coordinator.requests
    assert request.url == f"{URL}/v1/federations/tiny/weights/3?since=1"
    assert "Range" not in request.headers
    assert file.read_bytes() == b"deltas"


def test_no_error_is_outside_the_tree() -> None:
    assert issubclass(FederationFinished, Refused)
    assert issubclass(Refused, RequestFailed)
    assert issubclass(Unreachable, RequestFailed)
