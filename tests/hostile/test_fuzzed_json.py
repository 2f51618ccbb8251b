"""Every call of the OpenAPI document, with one thing wrong: refused by name, and never a 5xx."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import pytest

from shared.secure_sum.cards import SiteKeys
from tests.support.audit import create_token
from tests.support.fuzzing import Cases, Fuzzed, Memory, fuzzed_coordinator
from tests.support.json_mutations import NUMBERS, TEXTS, mutated, swapped
from tests.support.raw_requests import RawRequest
from tests.support.specifications import tiny_specification
from tests.support.sum_members import example_messages, protected_specification, start_protected

pytestmark = pytest.mark.integration

_CASES_EACH = 400
"""With one federation; then calls have revoked, finished and used up what it had."""
_CLIENT, _INVITED, _TOKEN = "site-a", "site-b", "spare"
_PATCH = "/v1/federations/{federation_name}"
_CASES_OF_A_PHASE, _PHASES = 30, 4
"""With one federation; then its member has sent its message."""
_MEMBERS_OWN = ("/task", "/decline", "/cards/{client_name}", "/join", "/confirm", "/unmask")
"""How the paths end of what members of a secure sum ask for beside their updates."""
_ODD_PARAMETERS, _ODD_HEADERS = 3, 6
"""One of so many calls has them."""


@dataclass(frozen=True)
class _Known:
    """What exists when a call is made, and who may make it."""

    name: str
    enrolment_token: str
    actors: dict[str, str]
    """The values of their Authorization headers."""
    attempt: int = 1
    messages: Mapping[str, Any] = field(default_factory=example_messages)
    """Of a secure sum, by kind: right ones where the federation has one."""

    @property
    def parameters(self) -> dict[str, Any]:
        return {
            "federation_name": self.name,
            "client_name": _CLIENT,
            "round_number": 1,
            "version": 0,
            "token_name": _TOKEN,
            "attempt": self.attempt,
        }

    @property
    def secrets(self) -> tuple[str, ...]:
        held = (one.removeprefix("Bearer ") for one in self.actors.values() if one)
        return (*held, self.enrolment_token)


_BODIES: dict[tuple[str, str], Callable[[_Known], Any]] = {
    ("POST", "/v1/federations"): lambda known: tiny_specification(known.name).model_dump(
        mode="json"
    ),
    ("PATCH", _PATCH): lambda _: {"action": "pause"},
    ("POST", f"{_PATCH}/clients"): lambda _: {"name": "site-c"},
    ("POST", "/v1/enrolments"): lambda known: {"enrolment_token": known.enrolment_token},
    ("POST", f"{_PATCH}/rounds/{{round_number}}/heartbeat"): lambda _: {"attempt": 1},
    ("PUT", f"{_PATCH}/rounds/{{round_number}}/decline"): lambda _: {"reason": "too few images"},
    ("PUT", f"{_PATCH}/cards/{{client_name}}"): lambda known: (
        SiteKeys.generate().card(known.name, _CLIENT).model_dump()
    ),
    **{
        ("PUT", f"{_PATCH}/rounds/{{round_number}}/exchange/{kind}"): lambda known, kind=kind: (
            known.messages[kind]
        )
        for kind in ("join", "confirm", "unmask")
    },
    ("POST", "/v1/tokens"): lambda _: {
        "name": "reader-2",
        "scope": "read-only",
        "valid_seconds": 60.0,
    },
}
"""A right body for every call that has one."""


@dataclass(frozen=True)
class _Operation:
    method: str
    path: str
    query: tuple[str, ...]
    body: Callable[[_Known], Any] | None


def _operations(document: dict[str, Any]) -> list[_Operation]:
    """Of an OpenAPI document; those that take updates are another fuzzer's."""
    found = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {"application/json": None})
            if "application/json" not in content:
                continue
            key = (method.upper(), path)
            assert ("requestBody" in operation) == (key in _BODIES), f"{key}: see _BODIES"
            query = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
            found.append(_Operation(*key, tuple(query), _BODIES.get(key)))
    return found


def _request(draw: Random, operation: _Operation, known: _Known) -> RawRequest:
    parameters = dict(known.parameters)
    odd = (*TEXTS[:-1], *map(str, NUMBERS), *known.secrets)
    if draw.randrange(_ODD_PARAMETERS) == 0:
        parameters[draw.choice(list(parameters))] = draw.choice(odd)
    path = operation.path.format(
        **{name: quote(str(value), safe="", errors="replace") for name, value in parameters.items()}
    )
    query = []
    for name in (*operation.query, "token"):
        if draw.randrange(4) == 0:
            query.append(f"{name}={quote(str(draw.choice(odd)), errors='replace')}")
        elif name in parameters:
            query.append(f"{name}={quote(str(parameters[name]), errors='replace')}")
    first = next(iter(known.actors))
    actor = draw.choice((first, first, *known.actors))
    headers = {"authorization": known.actors[actor]}
    body = b""
    if operation.body is not None:
        right = operation.body(known)
        body = (
            swapped(draw, right) if draw.randrange(4) == 0 else mutated(draw, right, known.secrets)
        )
        headers["content-type"] = "application/json"
    if draw.randrange(_ODD_HEADERS) == 0:
        _spoil(draw, headers, known)
    return RawRequest(
        operation.method,
        path + (f"?{'&'.join(query)}" if query else ""),
        tuple(headers.items()),
        [body],
        hangs_up=path.endswith("/task"),
    )


def _spoil(draw: Random, headers: dict[str, str], known: _Known) -> None:
    secret = draw.choice(known.secrets)
    match draw.randrange(5):
        case 0:
            headers["content-type"] = draw.choice(("", "text/plain", "application/json; a=" * 20))
        case 1:
            headers["content-length"] = draw.choice(("0", "-1", "x", str(10**30), str(1 << 60)))
        case 2:
            headers["authorization"] = draw.choice(
                (
                    "",
                    "Bearer",
                    f"Basic {secret}",
                    f"Bearer {secret}é",
                    secret,
                    "Bearer " + "x" * 9000,
                )
            )
        case 3:
            headers[draw.choice(("range", "if-none-match", "accept", "host"))] = draw.choice(
                ("bytes=0-", "bytes=9-1", "bytes=" + "9" * 40 + "-", "*", "é", secret, "x" * 5000)
            )
        case _:
            headers["user-agent"] = headers["x-forwarded-for"] = f"{secret}\n{secret}"


async def _new_federation(fuzzed: Fuzzed, name: str) -> _Known:
    """One with an open round of one client, one invited client, and a token to be revoked."""
    coordinator = fuzzed.coordinator
    await coordinator.started(tiny_specification(name), _CLIENT)
    task = await coordinator.poll(name, _CLIENT)
    assert task.status_code == 200, task.text
    enrolment_token = await coordinator.invite(name, _INVITED)
    reader = await create_token(coordinator, name=f"reader-of-{name}")
    await create_token(coordinator, name=f"{_TOKEN}-{name}")
    known = _Known(
        name,
        enrolment_token,
        {
            "admin": coordinator.admin["Authorization"],
            "client": coordinator.credentials[_CLIENT]["Authorization"],
            "reader": reader["Authorization"],
            "nobody": "",
        },
    )
    fuzzed.log.secrets += known.secrets
    return known


async def _new_sum(fuzzed: Fuzzed, name: str, phase: int) -> _Known:
    """A protected federation whose round is in its n-th phase, and a member's right message."""
    coordinator = fuzzed.coordinator
    members = await start_protected(
        coordinator, protected_specification(name), _CLIENT, "site-d", "site-e"
    )
    for _ in range(phase):
        for member in members:
            await member.work()
        await coordinator.driver.step()
    task = await members[0].task()
    messages = dict(example_messages())
    body = members[0].make(task)
    if task.kind.value in messages:
        messages[task.kind.value] = json.loads(body)
    known = _Known(
        name,
        await coordinator.invite(name, _INVITED),
        {
            "client": coordinator.credentials[_CLIENT]["Authorization"],
            "other": coordinator.credentials["site-d"]["Authorization"],
            "admin": coordinator.admin["Authorization"],
            "nobody": "",
        },
        task.attempt,
        messages,
    )
    fuzzed.log.secrets += known.secrets
    return known


async def _fuzz(
    fuzzed: Fuzzed,
    operations: list[_Operation],
    cases_each: int,
    make_known: Callable[[int], Awaitable[_Known]],
) -> None:
    memory = Memory(fuzzed.cases)
    known: _Known | None = None
    for number, draw in fuzzed.cases:
        memory.look(number)
        if known is None or number % cases_each == 0:
            known = await make_known(number)
        operation = operations[number % len(operations)]
        answer = await fuzzed.ask(number, _request(draw, operation, known))
        if answer.status in (200, 201) and answer.headers.get("content-type") == "application/json":
            json.loads(answer.body)
    memory.check()


@pytest.mark.parametrize(
    ("count", "is_seed_drawn"),
    [(600, False), pytest.param(22_000, True, marks=pytest.mark.slow)],
    ids=["a few", "many"],
)
async def test_calls_with_one_thing_wrong_store_nothing_and_never_fail(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    is_seed_drawn: bool,
) -> None:
    cases = Cases.of(request.config, count, is_seed_drawn=is_seed_drawn)
    print(f"the same cases again: --hypothesis-seed={cases.seed}")
    async with fuzzed_coordinator(tmp_path, cases, monkeypatch) as fuzzed:
        operations = _operations(fuzzed.coordinator.app.openapi())
        with_body = [one for one in operations if one.body is not None]
        # In a body there is more to be wrong.
        ahead = [*operations, *with_body, *with_body]
        await _fuzz(
            fuzzed, ahead, _CASES_EACH, lambda number: _new_federation(fuzzed, f"fuzzed-{number}")
        )
        if len(cases.numbers) > 1:
            assert {200, 201, 401, 403, 404, 409, 413, 422} <= fuzzed.answers.keys()


@pytest.mark.parametrize(
    ("count", "is_seed_drawn"),
    [(120, False), pytest.param(3_000, True, marks=pytest.mark.slow)],
    ids=["a few", "many"],
)
async def test_members_of_a_secure_sum_with_one_thing_wrong_are_refused_in_each_phase(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    is_seed_drawn: bool,
) -> None:
    cases = Cases.of(request.config, count, is_seed_drawn=is_seed_drawn)
    print(f"the same cases again: --hypothesis-seed={cases.seed}")
    async with fuzzed_coordinator(tmp_path, cases, monkeypatch) as fuzzed:
        members_own = [
            one
            for one in _operations(fuzzed.coordinator.app.openapi())
            if one.path.endswith(_MEMBERS_OWN)
        ]
        messages = [one for one in members_own if "/exchange/" in one.path]
        await _fuzz(
            fuzzed,
            [*members_own, *messages, *messages],
            _CASES_OF_A_PHASE,
            lambda number: _new_sum(
                fuzzed, f"fuzzed-{number}", number // _CASES_OF_A_PHASE % _PHASES
            ),
        )
        if len(cases.numbers) > 1:
            assert {200, 401, 403, 409, 422} <= fuzzed.answers.keys()
