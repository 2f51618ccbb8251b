"""Every refusal and failure of an application is a problem document of its own type."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.exc import InvalidRequestError, OperationalError

from coordinator import errors
from coordinator.serving.problem_handlers import install, problem_response
from shared.rest.problems import MEDIA_TYPE, ProblemType


def all_errors(base: type[errors.Refusal]) -> Iterator[type[errors.Refusal]]:
    for subclass in base.__subclasses__():
        yield subclass
        yield from all_errors(subclass)


ERRORS = list(all_errors(errors.Refusal))
STATUSES = {
    "Unauthenticated": ("unauthenticated", 401),
    "Forbidden": ("forbidden", 403),
    "UnknownThing": ("not-found", 404),
    "NameTaken": ("name-taken", 409),
    "IllegalTransition": ("illegal-transition", 409),
    "RoundClosed": ("round-closed", 409),
    "StaleBaseVersion": ("stale-base-version", 409),
    "LeaseLost": ("lease-lost", 409),
    "UpdateConflict": ("update-conflict", 409),
    "StateRestored": ("state-restored", 409),
    "FederationFinished": ("federation-finished", 410),
    "VersionRemoved": ("version-removed", 410),
    "UnreadableSpecification": ("internal", 500),
    "BodyTooLarge": ("body-too-large", 413),
    "BodyTooSlow": ("too-slow", 408),
    "BodyLost": ("unavailable", 503),
    "DriverSilent": ("driver-silent", 503),
    "UnsupportedMediaType": ("unsupported-media-type", 415),
    "TooManyUploads": ("too-many-requests", 429),
    "RangeNotSatisfiable": ("range-not-satisfiable", 416),
    "MalformedUpdate": ("malformed-update", 422),
    "InvalidSpecification": ("invalid-request", 422),
}

Ask = Callable[[Exception], Awaitable[httpx.Response]]


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    install(app)

    @app.get("/numbers/{number}")
    async def numbers(number: int) -> int:
        return number

    @app.get("/failure")
    async def failure() -> None:
        raise app.state.failure

    return app


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
        yield client


@pytest.fixture
def ask(app: FastAPI, http: httpx.AsyncClient) -> Ask:
    async def raise_and_answer(failure: Exception) -> httpx.Response:
        app.state.failure = failure
        return await http.get("/failure")

    return raise_and_answer


def check_is_problem(response: httpx.Response, slug: str, status: int) -> dict[str, Any]:
    problem: dict[str, Any] = response.json()
    assert response.status_code == problem["status"] == status
    assert response.headers["Content-Type"] == MEDIA_TYPE == "application/problem+json"
    assert problem["type"] == f"urn:hyperfl:problem:{slug}"
    assert problem["title"]
    return problem


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
async def test_an_error_has_its_type_status_and_members(
    ask: Ask, error: type[errors.Refusal]
) -> None:
    response = await ask(error("what was wrong", tensor="bias", expected=[1, 2]))
    problem = check_is_problem(response, *STATUSES[error.__name__])
    assert problem["detail"] == "what was wrong"
    assert (problem["tensor"], problem["expected"]) == ("bias", [1, 2])


def test_no_two_errors_share_a_type() -> None:
    assert {error.__name__ for error in ERRORS} == set(STATUSES)
    slugs = [slug for slug, _ in STATUSES.values()]
    assert len(set(slugs)) == len(slugs)


def test_problem_types_have_names_of_their_own() -> None:
    urns = [kind.urn for kind in ProblemType]
    assert len(set(urns)) == len(urns)
    assert all(400 <= kind.status < 600 for kind in ProblemType)


@pytest.mark.parametrize("kind", ProblemType)
def test_only_a_missing_token_asks_for_one_and_only_a_passing_trouble_for_patience(
    kind: ProblemType,
) -> None:
    headers = problem_response(kind, "detail").headers
    assert (headers.get("WWW-Authenticate") == "Bearer") == (kind.status == 401)
    assert ("Retry-After" in headers) == (kind.status in (429, 503))


async def test_a_request_that_does_not_fit_says_where(http: httpx.AsyncClient) -> None:
    problem = check_is_problem(await http.get("/numbers/x"), "invalid-request", 422)
    assert problem["errors"][0]["where"] == "path.number"
    assert "path.number: " in problem["detail"]


async def test_an_unknown_address_and_method_are_problems_too(http: httpx.AsyncClient) -> None:
    check_is_problem(await http.get("/nowhere"), "not-found", 404)
    response = await http.post("/numbers/1")
    check_is_problem(response, "method-not-allowed", 405)
    assert response.headers["Allow"] == "GET"


async def test_a_database_that_does_not_answer_is_503_with_patience(ask: Ask) -> None:
    cause = RuntimeError("connection to db.internal refused")
    response = await ask(OperationalError("SELECT secret", {}, cause))
    check_is_problem(response, "unavailable", 503)
    assert int(response.headers["Retry-After"]) > 0
    assert "secret" not in response.text
    assert "db.internal" not in response.text


async def test_a_database_without_room_is_503_by_another_name(ask: Ask) -> None:
    cause = sqlite3.OperationalError("/srv/secret is full")
    cause.sqlite_errorcode = sqlite3.SQLITE_FULL
    response = await ask(OperationalError("INSERT", {}, cause))
    check_is_problem(response, "storage-full", 503)
    assert int(response.headers["Retry-After"]) > 0
    assert "secret" not in response.text


@pytest.mark.parametrize("failure", [RuntimeError("token abc"), InvalidRequestError("token abc")])
async def test_a_failure_is_500_and_tells_nothing(ask: Ask, failure: Exception) -> None:
    response = await ask(failure)
    check_is_problem(response, "internal", 500)
    assert "abc" not in response.text
