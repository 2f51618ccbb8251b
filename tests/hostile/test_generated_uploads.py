"""Generated uploads through the whole application: refused by name, and nothing is kept."""

from __future__ import annotations

import gc
import json
import struct
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from psutil import Process

from shared.federation.specification import FederationSpecification
from shared.tensors.factored_encoding import BASE_SCALE, LEFT, RIGHT, SCALE
from tests.support.changes import ENCODINGS, MATRIX, changes
from tests.support.coordinator import RunningCoordinator
from tests.support.rounds import stored_bytes
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration

MOST_MEMORY_BYTES = 64 << 20
_NUM_TRACED = 50
"""The last ones, every allocation of which is looked at; that takes three times as long."""

_IN_HALVES: dict[str, Any] = {
    name: {"name": "factored", "wire_dtype": name} for name in ("float16", "bfloat16")
}
_DENORMALS = {"float32": 1e-45, "float16": 6e-8, "bfloat16": 1e-40}

_BETWEEN_UPLOADS_SECONDS = 0.02
"""On the coordinator's clock: fewer a second than its request limits take."""

Task = dict[str, Any]


def _header(document: object, data: bytes = b"") -> bytes:
    text = json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text + data


def _specified(encoding: str) -> FederationSpecification:
    plan = ENCODINGS[encoding] if encoding in ENCODINGS else _IN_HALVES[encoding]
    return tiny_specification(encoding=plan, max_update_norm=1e6, on_excess="reject")


def _wire(specification: FederationSpecification, generator: np.random.Generator) -> dict[str, Any]:
    """The tensors of a correct update, whose matrix is in factors if the encoding has them."""
    _, wire = changes(specification, int(generator.integers(1 << 30)))
    return {name: np.array(tensor) for name, tensor in wire.items()}


def _upload(
    specification: FederationSpecification, task: Task, wire: dict[str, Any], **claims: Any
) -> bytes:
    return update_bytes(
        specification, task, wire, **{"encoding": specification.encoding.name} | claims
    )


def bad_upload(
    generator: np.random.Generator, specification: FederationSpecification, task: Task
) -> bytes:
    """One upload that no coordinator may take."""
    if specification.encoding.name == "factored" and generator.integers(2):
        return _bad_factors(generator, specification, task)
    deltas = _wire(specification, generator)
    body = _upload(specification, task, deltas)
    name = sorted(deltas)[int(generator.integers(len(deltas)))]
    match int(generator.integers(12)):
        case 0:
            return body[: int(generator.integers(len(body)))]
        case 1:
            # In the header, so that the file is another one; a flip in the data is a legal change.
            length = 8 + int.from_bytes(body[:8], "little")
            flipped = bytearray(body)
            flipped[int(generator.integers(8))] ^= 1 << int(generator.integers(8))
            flipped[int(generator.integers(8, length))] ^= 128
            return bytes(flipped)
        case 2:
            return struct.pack("<Q", int(generator.integers(1 << 20, 1 << 62))) + body[8:]
        case 3:
            size = int(generator.integers(1 << 20, 1 << 50))
            tensor = {"dtype": "F32", "shape": [size, size], "data_offsets": [0, 4 * size * size]}
            return _header({name: tensor})
        case 4:
            deltas[f"head.{generator.integers(1000)}"] = deltas.pop(name)
        case 5:
            _poison(generator, deltas, name)
        case 6:
            # Beyond the norm of a dense update; the norm of factors is not known so early.
            if specification.encoding.name == "factored":
                _poison(generator, deltas, name)
            else:
                deltas[name][...] = np.float32(generator.choice([3e38, -3e38, 1e30]))
        case 7:
            deltas[name] = deltas[name].astype(np.float64)
        case 8:
            return _upload(specification, task, deltas, federation="other")
        case 9:
            number = int(generator.integers(2, 1 << 40))
            return _upload(specification, task, deltas, round_number=number)
        case 10:
            return body + generator.bytes(int(generator.integers(1, 4000)))
        case _:
            # A denormal change is legal; the claim that comes with it is not.
            deltas[name][...] = deltas[name].dtype.type(_DENORMALS[deltas[name].dtype.name])
            return _upload(specification, task, deltas, num_examples=-1)
    return _upload(specification, task, deltas)


def _poison(generator: np.random.Generator, wire: dict[str, Any], name: str) -> None:
    value = float(generator.choice([np.nan, np.inf, -np.inf]))
    wire[name].flat[int(generator.integers(wire[name].size))] = value


def _bad_factors(
    generator: np.random.Generator, specification: FederationSpecification, task: Task
) -> bytes:
    """One whose components, scales or forms do not fit together."""
    wire = _wire(specification, generator)
    left, right, base_scale = (MATRIX + part for part in (LEFT, RIGHT, BASE_SCALE))
    (vector,) = generator.choice([n for n in wire if n.endswith(SCALE) and n != base_scale], 1)
    match int(generator.integers(10)):
        case 0:
            wire[str(generator.choice([left, right]))] = np.ones(
                (int(generator.integers(2, 50)), 2), np.float32
            )
        case 1:
            # More components than the matrix has rows or columns.
            rank = int(generator.integers(3, 200))
            wire[left] = np.ones((rank, wire[left].shape[1]), wire[left].dtype)
            wire[right] = np.ones((rank, wire[right].shape[1]), np.float32)
        case 2:
            wire[left], wire[right] = wire[right], wire[left]
        case 3:
            del wire[str(generator.choice([left, right, base_scale, vector]))]
        case 4:
            wire[base_scale] = np.array(generator.choice([1.5, -3.0, 1e30, np.nan]), np.float32)
        case 5:
            wire[str(vector)] = np.array(generator.choice([np.nan, np.inf, -np.inf]), np.float32)
        case 6:
            half = np.dtype(generator.choice([np.float16, ml_dtypes.bfloat16]))
            wanted = str(generator.choice([right, base_scale, vector]))
            wire[wanted] = np.zeros(wire[wanted].shape, half)
        case 7:
            wire[MATRIX] = np.ones(specification.parameters.by_name[MATRIX].shape, np.float32)
        case 8:
            wire[str(generator.choice([left, right]))][...] = np.nan
        case _:
            return _upload(specification, task, wire, encoding="dense")
    return _upload(specification, task, wire)


@pytest.mark.parametrize("encoding", ["dense", "factored", "float16", "bfloat16"])
@pytest.mark.parametrize("count", [100, pytest.param(2_500, marks=pytest.mark.slow)])
async def test_generated_uploads_are_refused_and_leave_neither_bytes_nor_memory(
    coordinator: RunningCoordinator, encoding: str, count: int
) -> None:
    specification = _specified(encoding)
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    # Another client's update, replayed as this one's.
    other = update_bytes(specification, await coordinator.task("tiny", "b"))
    generator = np.random.default_rng(2022)
    before = await stored_bytes(coordinator.context.database)
    resident_bytes: list[int] = []
    try:
        for number in range(count):
            if number in (_NUM_TRACED // 2, count - _NUM_TRACED):
                gc.collect()
                resident_bytes.append(Process().memory_info().rss)
            if number == count - _NUM_TRACED:
                tracemalloc.start()
            replayed = number % 13 == 0
            body = other if replayed else bad_upload(generator, specification, task)
            coordinator.clock.advance(_BETWEEN_UPLOADS_SECONDS)
            response = await coordinator.put(task, body)
            assert 400 <= response.status_code < 500, (number, response.text)
            assert response.status_code != 429, "every one of them has to be looked at"
            assert response.headers["Content-Type"] == "application/problem+json"
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    warm, last = resident_bytes
    assert last - warm < MOST_MEMORY_BYTES
    assert peak_bytes < MOST_MEMORY_BYTES
    assert await stored_bytes(coordinator.context.database) == before
    assert (await coordinator.show("tiny/rounds/1"))["updates_received"] == 0
    wire = _wire(specification, generator)
    for name, tensor in wire.items():
        if not name.endswith(SCALE):
            tensor[...] = tensor.dtype.type(_DENORMALS[tensor.dtype.name])
    taken = await coordinator.put(task, _upload(specification, task, wire))
    assert taken.status_code == 201, taken.text
