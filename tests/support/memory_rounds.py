"""A round that is aggregated without a database: its bytes are in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from coordinator.aggregation.next_version import make_next_version
from coordinator.aggregation.round_updates import RoundUpdates
from coordinator.aggregation.selection import select_updates
from coordinator.context import Context
from coordinator.store.tables import WeightsRow
from coordinator.store.updates import Contribution
from coordinator.store.weight_norms import WeightNorms
from shared.arrays import Array, NamedArrays, digest_arrays, digest_bytes
from shared.federation.specification import FederationSpecification
from shared.rest.schema import UPDATE_METADATA_KEY, UpdateMetadata
from shared.tensors import codec


@dataclass
class MemoryBlobs:
    """What an aggregation needs of a ``BlobStore``."""

    piece_bytes: int
    contents: list[bytes] = field(default_factory=list)

    def put(self, content: bytes) -> int:
        self.contents.append(content)
        return len(self.contents) - 1

    async def read(self, blob_id: int) -> AsyncIterator[bytes]:
        content = self.contents[blob_id]
        for start in range(0, len(content), self.piece_bytes):
            yield content[start : start + self.piece_bytes]

    async def read_ranges(self, blob_id: int, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self.contents[blob_id][start:end] for start, end in ranges]

    async def read_whole(self, blob_id: int) -> bytearray:
        return bytearray(self.contents[blob_id])

    async def write(self, _: datetime, pieces: Iterable[bytes | memoryview]) -> Any:
        async def discard() -> None:
            pass

        blob_id = self.put(b"".join(pieces))
        return SimpleNamespace(blob_id=blob_id, discard=discard)


@dataclass(frozen=True)
class SentUpdate:
    """A client's wire tensors, and the examples that it claims."""

    wire: Mapping[str, Array]
    encoding: str
    num_examples: int = 10


@dataclass(frozen=True)
class RoundResult:
    """Weights and residual after a round, float32 by name."""

    weights: dict[str, Array]
    residual: dict[str, Array]


def aggregate_in_memory(
    specification: FederationSpecification,
    base: NamedArrays,
    sent: Sequence[SentUpdate],
    residual: NamedArrays | None = None,
    piece_bytes: int = 100,
) -> RoundResult:
    """What a round comes to that starts from ``base`` and the residual of the version before.

    Raises:
        AggregationFailed, NonFiniteError: the round fails.
    """
    blobs = MemoryBlobs(piece_bytes)
    clients = [chr(ord("a") + index) for index in range(len(sent))]
    contributions = []
    for client, update in zip(clients, sent, strict=True):
        content = codec.encode(update.wire, {UPDATE_METADATA_KEY: _metadata(client, update)})
        contributions.append(
            Contribution(
                client, update.num_examples, blobs.put(content), digest_bytes(content), len(content)
            )
        )
    row = WeightsRow(
        version=1,
        digest=digest_arrays(base),
        blob_id=blobs.put(codec.encode(base)),
        residual_blob_id=None if residual is None else blobs.put(codec.encode(residual)),
    )
    context = SimpleNamespace(
        blobs=blobs, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC), weight_norms=WeightNorms()
    )
    updates = RoundUpdates(cast(Context, context), specification, row, contributions)

    async def aggregate() -> Any:
        return await make_next_version(updates, await select_updates(updates))

    new = asyncio.run(aggregate())

    def arrays(writer: Any) -> dict[str, Array]:
        return {} if writer is None else codec.decode(blobs.contents[writer.blob_id])[0]

    return RoundResult(arrays(new.weights), arrays(new.residual))


def _metadata(client: str, update: SentUpdate) -> str:
    metadata = {
        "federation": "tiny",
        "client": client,
        "round_number": 1,
        "base_version": 1,
        "base_digest": "sha256:" + 64 * "0",
        "encoding": update.encoding,
        "num_examples": update.num_examples,
        "metrics": {},
    }
    return UpdateMetadata.model_construct(protocol=1, **metadata).model_dump_json(warnings=False)
