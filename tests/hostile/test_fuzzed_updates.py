"""Captured updates of real workers, each changed where it hurts: judged alike, and never a 5xx."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from coordinator.errors import Refusal
from coordinator.operations.update_check import Expectation, UpdateCheck
from shared.arrays import digest_arrays
from shared.federation.specification import FederationSpecification
from shared.rest.schema import TaskKind
from shared.tensors.codec import MEDIA_TYPE
from shared.tensors.file_header import MAX_HEADER_BYTES
from tests.support.captured_updates import CLIENT, ENCODINGS, capture_update
from tests.support.fuzzing import Cases, Fuzzed, Memory, fuzzed_coordinator
from tests.support.raw_requests import RawRequest
from tests.support.update_mutations import for_task, mutated_update

pytestmark = pytest.mark.integration

_POLICY: dict[str, Any] = {
    "rounds": 1_000_000,
    "max_failed_rounds": 1_000_000,
    "deadline_seconds": 30 * 86400.0,
    "lease_seconds": 86400.0,
    "max_update_norm": 1e6,
    "on_excess": "reject",
    "evaluate_final": False,
}
_OTHER = "site-b"
_IN_PIECES = 3
"""One of so many bodies comes in several pieces."""
_TAKEN = "taken"
_FEW_TAKEN = 10
"""Of the changes that are legal one of so many stays: it takes a round to be rid of it."""
_ODD_REQUESTS = 12
"""One of so many has a wrong address, sender or header as well."""


@dataclass
class _Federation:
    """A federation of one client, and its next update as the worker would send it."""

    specification: FederationSpecification
    captured: bytes
    task: dict[str, Any]

    @property
    def correct(self) -> bytes:
        return for_task(self.captured, self.task)

    def expectation(self) -> Expectation:
        return Expectation(
            specification=self.specification,
            client=self.task["client"],
            round_number=self.task["round_number"],
            base_version=self.task["base_version"],
            base_digest=self.task["base_digest"],
            kind=TaskKind(self.task["kind"]),
            max_bytes=self.specification.parameters.size_bytes + MAX_HEADER_BYTES,
        )


def _pieces(draw: Random, body: bytes) -> list[bytes]:
    if draw.randrange(_IN_PIECES) or len(body) < 2:
        return [body]
    cuts = sorted(draw.randrange(len(body)) for _ in range(draw.choice((1, 2, 20))))
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


async def _federations(folder: Path) -> dict[str, _Federation]:
    """Without a task yet."""
    found = {}
    for encoding in ENCODINGS:
        captured = await capture_update(folder / encoding, encoding, **_POLICY)
        found[encoding] = _Federation(captured.specification, captured.body, {})
    return found


def _verdict(expectation: Expectation, pieces: list[bytes]) -> str:
    check = UpdateCheck(expectation)
    try:
        for piece in pieces:
            check.feed(piece)
        check.finish()
    except Refusal as refusal:
        return type(refusal).__name__
    return _TAKEN


def _request(
    draw: Random, fuzzed: Fuzzed, federation: _Federation, body: bytes, secrets: tuple[str, ...]
) -> RawRequest:
    task = federation.task
    address = [
        *("v1", "federations", task["federation"]),
        *("rounds", str(task["round_number"])),
        *("updates", task["client"]),
    ]
    query = f"attempt={task['attempt']}"
    authorization = fuzzed.coordinator.credentials[task["federation"]]["Authorization"]
    media_type = MEDIA_TYPE
    pieces = _pieces(draw, body)
    length = str(len(body))
    if draw.randrange(_ODD_REQUESTS) == 0:
        match draw.randrange(6):
            case 0:
                address[draw.choice((2, 4, 6))] = draw.choice(
                    ("x", "0", "-1", "99999999999999999999", "%00", "%FF", _OTHER, *secrets)
                )
            case 1:
                query = draw.choice(
                    ("", "attempt=0", "attempt=2", "attempt=a", f"attempt={10**30}")
                )
            case 2:
                media_type = draw.choice(("", "application/json", "text/plain", "x" * 500))
            case 3:
                length = draw.choice(("0", "-1", "a", str(1 << 50), str(10**30), "1"))
            case 4:
                authorization = draw.choice(
                    ("", "Bearer ", "Basic eDp5", f"Bearer {secrets[0]}x", f"bearer {secrets[1]}")
                )
            case _:
                query += f"&token={secrets[0]}"
    return RawRequest(
        "PUT",
        "/" + "/".join(address) + (f"?{query}" if query else ""),
        (
            ("authorization", authorization),
            ("content-type", media_type),
            ("content-length", length),
        ),
        pieces,
    )


async def _take_task(fuzzed: Fuzzed, federation: _Federation) -> None:
    """Has the driver go on, and the client ask for what comes next."""
    await fuzzed.coordinator.driver.step()
    name = federation.specification.name
    answer = await fuzzed.coordinator.http.get(
        f"/v1/federations/{name}/task", headers=fuzzed.coordinator.credentials[name]
    )
    assert answer.status_code == 200, answer.text
    federation.task = answer.json()


async def _start(fuzzed: Fuzzed, federations: dict[str, _Federation]) -> tuple[str, ...]:
    """Opens every federation's first round; returns tokens that nobody may find in a log."""
    coordinator = fuzzed.coordinator
    for name, federation in federations.items():
        await coordinator.started(federation.specification, CLIENT)
        coordinator.credentials[name] = coordinator.credentials.pop(CLIENT)
        await _take_task(fuzzed, federation)
    held = (coordinator.admin, *coordinator.credentials.values())
    tokens = tuple(one["Authorization"].removeprefix("Bearer ") for one in held)
    fuzzed.log.secrets += tokens
    return tokens


async def _fuzz_requests(fuzzed: Fuzzed, federations: dict[str, _Federation]) -> None:
    secrets = await _start(fuzzed, federations)
    memory = Memory(fuzzed.cases)
    names = list(federations)
    for number, draw in fuzzed.cases:
        memory.look(number)
        federation = federations[names[number % len(names)]]
        others = tuple(one.correct for one in federations.values() if one is not federation)
        body = mutated_update(draw, federation.correct, others, secrets)
        while draw.randrange(_FEW_TAKEN) and _verdict(federation.expectation(), [body]) == _TAKEN:
            body = mutated_update(draw, body, others, secrets)
        answer = await fuzzed.ask(number, _request(draw, fuzzed, federation, body, secrets))
        if answer.status == 201:
            await _take_task(fuzzed, federation)
    memory.check()
    for federation in federations.values():
        final = RawRequest(
            "PUT",
            f"/v1/federations/{federation.specification.name}/rounds"
            f"/{federation.task['round_number']}/updates/{CLIENT}"
            f"?attempt={federation.task['attempt']}",
            (
                *fuzzed.coordinator.credentials[federation.specification.name].items(),
                ("content-type", MEDIA_TYPE),
            ),
            [federation.correct],
        )
        assert (await fuzzed.ask(-1, final)).status == 201, "what is correct is still taken"


def _fuzz_checks(cases: Cases, federations: dict[str, _Federation]) -> dict[str, int]:
    """How often each verdict was given. It never depends on how the bytes were cut."""
    verdicts: dict[str, int] = {}
    memory = Memory(cases)
    all_federations = list(federations.values())
    correct = [one.correct for one in all_federations]
    expectations = [one.expectation() for one in all_federations]
    for number, draw in cases:
        memory.look(number)
        which = number % len(correct)
        others = tuple(correct[:which] + correct[which + 1 :])
        body = mutated_update(draw, correct[which], others)
        try:
            verdict = _verdict(expectations[which], [body])
            assert _verdict(expectations[which], _pieces(draw, body)) == verdict
        except Exception as error:
            raise AssertionError(f"repeat it with {cases.repeat(number)}: {body!r}") from error
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
    memory.check()
    return verdicts


@pytest.mark.parametrize(
    ("count", "is_seed_drawn"),
    [(200, False), pytest.param(9_000, True, marks=pytest.mark.slow)],
    ids=["a few", "many"],
)
async def test_requests_with_changed_updates_store_nothing_and_never_fail(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    is_seed_drawn: bool,
) -> None:
    cases = Cases.of(request.config, count, is_seed_drawn=is_seed_drawn)
    print(f"the same cases again: --hypothesis-seed={cases.seed}")
    federations = await _federations(tmp_path)
    async with fuzzed_coordinator(tmp_path, cases, monkeypatch) as fuzzed:
        await _fuzz_requests(fuzzed, federations)
        if len(cases.numbers) > 1:
            assert {401, 415, 422} <= fuzzed.answers.keys(), fuzzed.answers


@pytest.mark.parametrize(
    ("count", "is_seed_drawn"),
    [(1_000, False), pytest.param(70_000, True, marks=pytest.mark.slow)],
    ids=["a few", "many"],
)
async def test_changed_updates_are_judged_alike_however_their_bytes_are_cut(
    tmp_path: Path, request: pytest.FixtureRequest, count: int, is_seed_drawn: bool
) -> None:
    cases = Cases.of(request.config, count, is_seed_drawn=is_seed_drawn)
    print(f"the same cases again: --hypothesis-seed={cases.seed}")
    federations = await _federations(tmp_path)
    for federation in federations.values():
        base = federation.specification.parameters.initial_values()
        federation.task = {
            "federation": federation.specification.name,
            "client": CLIENT,
            "kind": "train",
            "round_number": 1,
            "base_version": 0,
            "base_digest": digest_arrays(base),
        }
        assert _verdict(federation.expectation(), [federation.captured]) == _TAKEN
    verdicts = _fuzz_checks(cases, federations)
    if len(cases.numbers) > 1:
        assert {"MalformedUpdate", _TAKEN} <= verdicts.keys(), verdicts
