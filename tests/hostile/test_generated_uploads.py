"""Generated uploads through the whole application: refused by name, and nothing is kept."""

from __future__ import annotations

import gc
import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from psutil import Process

from shared.specification import FederationSpecification
from tests.support.coordinator import RunningCoordinator
from tests.support.rounds import stored_bytes
from tests.support.specifications import tiny_specification
from tests.support.updates import random_deltas, update_bytes

pytestmark = pytest.mark.integration

MOST_MEMORY_BYTES = 64 << 20
_NUM_TRACED = 300
"""The last ones, every allocation of which is looked at; that takes three times as long."""

_BETWEEN_UPLOADS_SECONDS = 0.02
"""On the coordinator's clock: fewer a second than its request limits take."""

Task = dict[str, Any]


def _header(document: object, data: bytes = b"") -> bytes:
    text = json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text + data


def bad_upload(
    generator: np.random.Generator, specification: FederationSpecification, task: Task
) -> bytes:
    """One upload that no coordinator may take."""
    body = update_bytes(specification, task)
    deltas = random_deltas(specification, int(generator.integers(1 << 30)))
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
            value = float(generator.choice([np.nan, np.inf, -np.inf]))
            deltas[name].flat[int(generator.integers(deltas[name].size))] = value
        case 6:
            deltas[name][...] = np.float32(generator.choice([3e38, -3e38, 1e30]))
        case 7:
            deltas[name] = deltas[name].astype(np.float64)
        case 8:
            return update_bytes(specification, task, deltas, federation="other")
        case 9:
            return update_bytes(
                specification, task, deltas, round_number=int(generator.integers(2, 1 << 40))
            )
        case 10:
            return body + generator.bytes(int(generator.integers(1, 4000)))
        case _:
            # A denormal change is legal; the claim that comes with it is not.
            deltas[name][...] = np.float32(1e-45)
            return update_bytes(specification, task, deltas, num_examples=-1)
    return update_bytes(specification, task, deltas)


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_generated_uploads_are_refused_and_leave_neither_bytes_nor_memory(
    coordinator: RunningCoordinator, count: int
) -> None:
    specification = tiny_specification(max_update_norm=1e6, on_excess="reject")
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    # Another client's update, replayed as this one's.
    other = update_bytes(specification, await coordinator.task("tiny", "b"))
    generator = np.random.default_rng(2022)
    before = await stored_bytes(coordinator)
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
    assert await stored_bytes(coordinator) == before
    assert (await coordinator.show("tiny/rounds/1"))["updates_received"] == 0
    assert (await coordinator.put(task, update_bytes(specification, task))).status_code == 201
