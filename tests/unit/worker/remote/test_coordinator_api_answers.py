"""What an answer decides: a refusal, come again, or nothing at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from shared.rest.problems import Problem, ProblemType
from shared.rest.schema import Task
from tests.support.api_calls import CALLS, FEDERATION, every_call
from tests.support.fake_coordinator import FakeCoordinator, credential, problem, weights_file
from worker.errors import (
    FederationFinished,
    NoCoordinator,
    Refused,
    RequestFailed,
    Unreachable,
)
from worker.remote.coordinator_api import CoordinatorApi

COME_AGAIN = (408, 429, 500, 501, 502, 503, 504, 507, 520)


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


async def test_a_page_of_a_proxy_whose_coordinator_is_away_is_told_from_one_of_another_server(
    coordinator: FakeCoordinator, client: CoordinatorApi
) -> None:
    for status in (200, 301, 404, 429, 500, 501, 502, 503):
        coordinator.answer(
            "GET", f"/{FEDERATION}", httpx.Response(status, html="<h1>It works!</h1>")
        )
        with pytest.raises(Unreachable) as raised:
            await client.fetch_federation(FEDERATION)
        is_another = status in (200, 301, 404, 501)
        assert isinstance(raised.value, NoCoordinator) == is_another, status


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


def test_no_error_is_outside_the_tree() -> None:
    assert issubclass(FederationFinished, Refused)
    assert issubclass(Refused, RequestFailed)
    assert issubclass(Unreachable, RequestFailed)
