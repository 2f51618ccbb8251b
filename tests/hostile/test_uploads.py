"""Updates that must be refused, each by name, and leave nothing behind."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from shared.federation.specification import FederationSpecification
from shared.tensors import codec
from tests.support.coordinator import RunningCoordinator
from tests.support.rounds import stored_bytes
from tests.support.specifications import tiny_specification
from tests.support.updates import random_deltas, update_bytes

pytestmark = pytest.mark.integration

Task = dict[str, Any]
WEIGHT = "hypernetwork.output.weight"


def _with(specification: FederationSpecification, task: Task, **changed: Any) -> bytes:
    """An update with some tensors replaced (an array) or left out (None)."""
    deltas = random_deltas(specification, 1)
    for name, value in changed.items():
        full = name.replace("__", ".")
        if value is None:
            del deltas[full]
        else:
            deltas[full] = value
    return update_bytes(specification, task, deltas)


def _poisoned(specification: FederationSpecification, value: float) -> np.ndarray[Any, Any]:
    array = random_deltas(specification, 1)[WEIGHT]
    array[2, 1] = value
    return array


def _file(header: str) -> bytes:
    """A file without data."""
    text = header.encode()
    return struct.pack("<Q", len(text)) + text


CASES: dict[str, tuple[Callable[[FederationSpecification, Task], bytes], int, dict[str, Any]]] = {
    "empty": (lambda s, t: b"", 422, {}),
    "not safetensors": (lambda s, t: b"PK\x03\x04" + bytes(200), 422, {}),
    "a pickle": (lambda s, t: b"\x80\x04\x95" + bytes(200), 422, {}),
    "truncated": (lambda s, t: update_bytes(s, t)[:-3], 422, {}),
    "trailing bytes": (lambda s, t: update_bytes(s, t) + b"x", 422, {}),
    "header is not JSON": (lambda s, t: struct.pack("<Q", 4) + b"{{{{", 422, {}),
    "header of countless lists": (lambda s, t: _file('{"a":[' + "[]," * 340_000 + "[]]}"), 422, {}),
    "header of a few lists too many": (
        lambda s, t: _file('{"a":[' + "[]," * 9000 + "[]]}"),
        422,
        {"tensor": "a"},
    ),
    "header claims a gigabyte": (
        lambda s, t: struct.pack("<Q", 1 << 30) + b"{}",
        422,
        {"found": 1 << 30},
    ),
    "no metadata": (lambda s, t: codec.encode(random_deltas(s, 1)), 422, {"member": "hyperfl"}),
    "missing tensor": (
        lambda s, t: _with(s, t, hypernetwork__output__weight=None),
        422,
        {"tensor": WEIGHT},
    ),
    "leaked embedding": (
        lambda s, t: _with(s, t, embedding=np.zeros(3, np.float32)),
        422,
        {"tensor": "embedding"},
    ),
    "leaked head": (
        lambda s, t: _with(s, t, head__weight=np.zeros((3, 2), np.float32)),
        422,
        {"tensor": "head.weight"},
    ),
    "wrong shape": (
        lambda s, t: _with(s, t, hypernetwork__output__weight=np.zeros((2, 4), np.float32)),
        422,
        {
            "tensor": WEIGHT,
            "expected": {"dtype": "F32", "shape": [4, 2]},
            "found": {"dtype": "F32", "shape": [2, 4]},
        },
    ),
    "wrong dtype": (
        lambda s, t: _with(s, t, hypernetwork__output__weight=np.zeros((4, 2), np.float64)),
        422,
        {"tensor": WEIGHT},
    ),
    "NaN": (
        lambda s, t: _with(s, t, hypernetwork__output__weight=_poisoned(s, np.nan)),
        422,
        {"tensor": WEIGHT, "position": [2, 1], "found": "nan"},
    ),
    "infinity": (
        lambda s, t: _with(s, t, hypernetwork__output__weight=_poisoned(s, -np.inf)),
        422,
        {"tensor": WEIGHT, "position": [2, 1], "found": "-inf"},
    ),
    "no examples": (
        lambda s, t: update_bytes(s, t, num_examples=0),
        422,
        {"member": "num_examples", "found": 0},
    ),
    "negative examples": (
        lambda s, t: update_bytes(s, t, num_examples=-5),
        422,
        {"member": "num_examples"},
    ),
    "absurd examples": (
        lambda s, t: update_bytes(s, t, num_examples=10**12),
        422,
        {"member": "num_examples"},
    ),
    "infinite metric": (
        lambda s, t: update_bytes(s, t, metrics={"loss": float("inf")}),
        422,
        {},
    ),
    "another federation": (
        lambda s, t: update_bytes(s, t, federation="other"),
        422,
        {"member": "federation", "expected": "tiny", "found": "other"},
    ),
    "another client": (lambda s, t: update_bytes(s, t, client="b"), 422, {"member": "client"}),
    "another round": (
        lambda s, t: update_bytes(s, t, round_number=2),
        422,
        {"member": "round_number"},
    ),
    "unknown encoding": (
        lambda s, t: update_bytes(s, t, encoding="pickled"),
        422,
        {"member": "encoding"},
    ),
    "stale base version": (
        lambda s, t: update_bytes(s, t, base_version=3),
        409,
        {"type": "urn:hyperfl:problem:stale-base-version", "base_version": 0},
    ),
    "stale base digest": (
        lambda s, t: update_bytes(s, t, base_digest="sha256:" + "0" * 64),
        409,
        {"type": "urn:hyperfl:problem:stale-base-version", "found": "sha256:" + "0" * 64},
    ),
    "no base digest": (
        lambda s, t: update_bytes(s, t, base_digest=None),
        422,
        {"member": "base_digest"},
    ),
    "too large": (
        lambda s, t: update_bytes(s, t) + bytes(2 << 20),
        413,
        {"type": "urn:hyperfl:problem:body-too-large"},
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_bad_update_is_named_and_leaves_nothing(
    coordinator: RunningCoordinator, case: str
) -> None:
    build, status, members = CASES[case]
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    before = await stored_bytes(coordinator.context.database)

    response = await coordinator.put(task, build(specification, task))

    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["detail"]
    assert {name: problem.get(name) for name in members} == members
    assert await stored_bytes(coordinator.context.database) == before
    assert (await coordinator.show("tiny/rounds/1"))["updates_received"] == 0
    # The client is not shut out: the correct update is still taken.
    assert (await coordinator.put(task, update_bytes(specification, task))).status_code == 201


async def test_another_media_type_is_refused(coordinator: RunningCoordinator) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a")
    task = await coordinator.task("tiny", "a")
    body = update_bytes(specification, task)
    for media_type in ("application/octet-stream", "application/json", ""):
        response = await coordinator.put(task, body, **{"Content-Type": media_type})
        assert response.status_code == 415, media_type


async def test_a_body_over_the_limit_is_refused_before_it_is_read_whole(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a")
    task = await coordinator.task("tiny", "a")
    produced = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal produced
        for _ in range(1000):
            produced += 1 << 20
            yield bytes(1 << 20)

    body: Any = endless()
    response = await coordinator.put(task, body)
    assert response.status_code in (413, 422)
    assert produced <= 4 << 20


async def test_json_bodies_have_limits(coordinator: RunningCoordinator) -> None:
    response = await coordinator.http.post(
        "/v1/enrolments", content=json.dumps({"enrolment_token": "x" * (1 << 20)})
    )
    assert response.status_code == 413
    assert response.json()["type"] == "urn:hyperfl:problem:body-too-large"
