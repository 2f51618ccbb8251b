"""Norms of published weights: read once for each version, however many ask."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import numpy as np
import pytest

from coordinator.errors import DamagedBlobError
from coordinator.store.blobs import BlobStore
from coordinator.store.tables import WeightsRow
from coordinator.store.weight_norms import WeightNorms
from shared.arrays import digest_arrays
from shared.tensors import codec
from tests.support.coordinator import on_sqlite
from tests.support.statements import statements

pytestmark = [pytest.mark.integration, on_sqlite]

ARRAYS = {"w": np.full((30, 4), 0.5, np.float32), "b": np.zeros(3, np.float32)}


@pytest.fixture
def chunk_bytes() -> int:
    return 100


async def stored(blob_store: BlobStore, content: bytes) -> WeightsRow:
    writer = await blob_store.write(datetime(2026, 1, 1, tzinfo=UTC), [content])
    async with blob_store.database.writing() as session:
        blob_id = await writer.seal(session)
    return WeightsRow(version=3, digest=digest_arrays(ARRAYS), blob_id=blob_id)


async def test_all_who_ask_for_a_version_are_served_by_one_reading(blob_store: BlobStore) -> None:
    weights = await stored(blob_store, codec.encode(ARRAYS))
    with statements(blob_store.database) as alone:
        await WeightNorms().of(blob_store, weights)
    norms = WeightNorms()
    with statements(blob_store.database) as together:
        found = await asyncio.gather(*(norms.of(blob_store, weights) for _ in range(5)))
    assert len(together) == len(alone)
    assert found == [{"w": pytest.approx(np.sqrt(30.0)), "b": 0.0}] * 5


async def test_the_version_that_was_asked_for_longest_ago_is_forgotten(
    blob_store: BlobStore,
) -> None:
    weights = await stored(blob_store, codec.encode(ARRAYS))
    norms = WeightNorms(kept=1)
    await norms.of(blob_store, weights)
    other = WeightsRow(version=4, digest="another", blob_id=weights.blob_id)
    await norms.of(blob_store, other)
    with statements(blob_store.database) as sent:
        await norms.of(blob_store, weights)
    assert sent


@pytest.mark.parametrize("content", [b"", codec.encode(ARRAYS)[:-1], b"x" * 50])
async def test_weights_that_are_not_whole_are_damaged(
    blob_store: BlobStore, content: bytes
) -> None:
    weights = await stored(blob_store, content)
    with pytest.raises(DamagedBlobError, match="the stored weights of version 3 are damaged"):
        await WeightNorms().of(blob_store, weights)


async def test_weights_that_are_no_longer_kept_are_missing(blob_store: BlobStore) -> None:
    gone = WeightsRow(version=3, digest="gone", blob_id=None)
    with pytest.raises(DamagedBlobError, match="the stored weights of version 3 are missing"):
        await WeightNorms().of(blob_store, gone)
