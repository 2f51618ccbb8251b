"""Recorded updates read in blocks of rows, whatever their form and wherever chunks end."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from coordinator.aggregation.aggregate import aggregate
from coordinator.aggregation.round_updates import (
    DEFAULT_MEMORY,
    StackMemory,
    change_norm,
    stacks,
)
from coordinator.aggregation.update_file import UpdateFile
from coordinator.errors import DamagedBlobError
from coordinator.rounds.driver import Driver
from coordinator.store.blobs import CHUNK_BYTES, BlobStore
from shared.arrays import Array, digest_bytes
from shared.federation.specification import ParameterSpecification
from shared.tensors import codec
from shared.tensors.low_rank import Float64
from tests.support.changes import CLIENTS, ENCODINGS, RULES, changes, send, specified
from tests.support.coordinator import on_sqlite, running_coordinator
from tests.support.statements import statements

pytestmark = pytest.mark.integration

ROWS, COLUMNS, LENGTH = 23, 5, 11
PARAMETERS = ParameterSpecification.model_validate(
    {
        "seed": 3,
        "tensors": [
            {"name": "w", "shape": [ROWS, COLUMNS], "initialisation": [{"rows": ROWS}]},
            {"name": "b", "shape": [LENGTH], "initialisation": [{"rows": LENGTH}]},
        ],
    }
)
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
BASE = {
    name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    for name, shape in (("w", (ROWS, COLUMNS)), ("b", (LENGTH,)))
}


def dense_update(seed: int) -> tuple[dict[str, Array], dict[str, Float64]]:
    """Wire tensors, and the change that they stand for."""
    generator = np.random.default_rng(seed)
    wire = {name: generator.standard_normal(BASE[name].shape).astype(np.float32) for name in "wb"}
    return wire, {name: value.astype(np.float64) for name, value in wire.items()}


def factored_update(
    seed: int, rank: int, dtype: str, *, is_whole: bool = False
) -> tuple[dict[str, Array], dict[str, Float64]]:
    generator = np.random.default_rng(seed)
    kind: Any = DTYPES[dtype]
    wire: dict[str, Array] = {
        "b": generator.standard_normal(LENGTH).astype(kind),
        "b/scale": np.array(3.0, np.float32),
    }
    change = {"b": 3.0 * wire["b"].astype(np.float64)}
    if is_whole:
        wire["w"] = generator.standard_normal((ROWS, COLUMNS)).astype(kind)
        wire["w/scale"] = np.array(-0.5, np.float32)
        change["w"] = -0.5 * wire["w"].astype(np.float64)
    else:
        wire["w/left"] = generator.standard_normal((rank, ROWS)).astype(kind)
        wire["w/right"] = generator.standard_normal((rank, COLUMNS)).astype(np.float32)
        wire["w/base_scale"] = np.array(-0.25, np.float32)
        product = wire["w/left"].astype(np.float64).T @ wire["w/right"].astype(np.float64)
        change["w"] = product - 0.25 * BASE["w"].astype(np.float64)
    return wire, change


UPDATES = [
    dense_update(1),
    factored_update(2, 1, "F32"),
    factored_update(3, COLUMNS, "F16"),
    factored_update(4, 2, "BF16"),
    factored_update(5, 0, "F16"),
    factored_update(6, 0, "BF16", is_whole=True),
]


async def stored(blob_store: BlobStore, wire: dict[str, Array]) -> UpdateFile:
    content = codec.encode(wire, {"hyperfl": "{}"})
    writer = await blob_store.write(datetime(2026, 1, 1, tzinfo=UTC), [content])
    async with blob_store.database.writing() as session:
        blob_id = await writer.seal(session)
    return await UpdateFile.open(blob_store, blob_id, digest_bytes(content))


@on_sqlite
@pytest.mark.parametrize("chunk_bytes", [64, 1 << 20])
@pytest.mark.parametrize("block_rows", [1, 4, ROWS])
@pytest.mark.parametrize("ahead_bytes", [0, 1000, 1 << 20])
async def test_stacks_hold_every_change_whatever_its_form(
    blob_store: BlobStore, chunk_bytes: int, block_rows: int, ahead_bytes: int
) -> None:
    assert blob_store.chunk_bytes == chunk_bytes
    block_bytes = block_rows * 8 * COLUMNS * len(UPDATES)
    memory = StackMemory(block_bytes, ahead_bytes)
    factors = [1.0, 0.5, 1.0, 2.0, 1.0, 0.125]
    updates = [
        (await stored(blob_store, wire), f) for (wire, _), f in zip(UPDATES, factors, strict=True)
    ]
    found = {name: np.full((len(UPDATES), value.size), np.nan) for name, value in BASE.items()}
    largest = 0
    async for block, stack in stacks(updates, PARAMETERS, BASE, {"w": 0.1}, memory):
        width = stack.shape[2]
        place = slice(block.start * width, block.stop * width)
        found[block.tensor.name][:, place] = stack.reshape(len(stack), -1)
        largest = max(largest, stack.nbytes)
    assert largest <= block_bytes
    for index, (_, change) in enumerate(UPDATES):
        for name, offset in (("w", 0.1), ("b", 0.0)):
            expected = factors[index] * change[name] - offset * BASE[name].astype(np.float64)
            np.testing.assert_allclose(
                found[name][index], expected.reshape(-1), rtol=0, atol=1e-12, err_msg=f"{index}"
            )


@pytest.mark.parametrize("index", range(len(UPDATES)))
async def test_the_norm_is_that_of_the_whole_change(blob_store: BlobStore, index: int) -> None:
    wire, change = UPDATES[index]
    update = await stored(blob_store, wire)
    norm = await change_norm(update, PARAMETERS, BASE, StackMemory(block_bytes=200))
    assert norm == pytest.approx(np.sqrt(sum(np.square(v).sum() for v in change.values())))


async def test_no_chunk_is_fetched_more_often_than_memory_demands(blob_store: BlobStore) -> None:
    """What lies in one chunk is fetched once a tensor, however many blocks and components."""
    updates = [(await stored(blob_store, factored_update(s, 5, "F32")[0]), 1.0) for s in range(3)]
    memory = StackMemory(block_bytes=8 * COLUMNS * len(updates))
    with statements(blob_store.database) as sent:
        num_blocks = len([block async for block in stacks(updates, PARAMETERS, BASE, {}, memory)])
    assert num_blocks > 2 * len(PARAMETERS.tensors)
    fetched = [statement for statement in sent if "blob_chunks.data" in statement]
    assert len(fetched) == len(updates) * len(PARAMETERS.tensors)


async def test_bytes_that_are_not_those_recorded_are_refused(blob_store: BlobStore) -> None:
    update = await stored(blob_store, UPDATES[0][0])
    with pytest.raises(DamagedBlobError, match=f"stored blob {update.blob_id} is damaged"):
        await UpdateFile.open(blob_store, update.blob_id, digest_bytes(b"something else"))


@on_sqlite
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rule", ["mean", *RULES])
async def test_a_round_of_many_blocks_and_chunks_gives_the_same_weights(
    database_url: str, tmp_path: Path, encoding: str, rule: str
) -> None:
    digests = []
    for name, chunk_bytes, memory in (
        ("one-block", CHUNK_BYTES, DEFAULT_MEMORY),
        ("many-blocks", 100, StackMemory(block_bytes=1, ahead_bytes=80)),
    ):
        specification = specified(
            encoding, RULES.get(rule, rule), minimum_updates=7, max_update_norm=5.0
        )
        specification = specification.model_copy(update={"name": name})
        async with running_coordinator(
            database_url, tmp_path, chunk_bytes=chunk_bytes
        ) as coordinator:
            driver = Driver(coordinator.context, aggregate=partial(aggregate, memory=memory))
            await coordinator.started(specification, *CLIENTS)
            for seed, client in enumerate(CLIENTS):
                _, wire = changes(specification, seed)
                assert (await send(coordinator, specification, client, wire)).status_code == 201
            await driver.step()
            shown = await coordinator.show(name)
            assert shown["weights_version"] == 1, shown["reason"]
            digests.append(shown["weights_digest"])
    assert digests[0] == digests[1]
