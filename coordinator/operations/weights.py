"""Sends weights as a stream of chunks, whole or one range of bytes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from coordinator.access.identity import ClientPrincipal, Principal
from coordinator.context import Context
from coordinator.errors import DamagedBlobError, RangeNotSatisfiable, VersionRemoved
from coordinator.operations.delta_chains import ChainFile, DeltaChains
from coordinator.store import assignments as assignment_store
from coordinator.store import blobs
from coordinator.store import federations as federation_store
from coordinator.store import weights as store
from coordinator.store.tables import WeightsRow
from coordinator.store.weights import StoredDelta

_log = structlog.get_logger()
_ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


@dataclass(frozen=True)
class OutgoingWeights:
    """What is sent of a version: its bytes from ``start`` to before ``end`` of ``size_bytes``.

    Attributes:
        digest: of the version's weights.
        is_chain: the bytes are the deltas that lead to the version, not the version itself.
    """

    digest: str
    size_bytes: int
    start: int
    end: int
    body: AsyncIterator[bytes]
    is_chain: bool = False

    @property
    def is_partial(self) -> bool:
        """Whether a range was asked for and is sent."""
        return (self.start, self.end) != (0, self.size_bytes)


@dataclass(frozen=True)
class VersionView:
    """A version of the weights as administrators see it; without a size it is no longer kept."""

    version: int
    digest: str
    created_at: datetime
    size_bytes: int | None
    delta_bytes: int | None


async def list_versions(
    context: Context, federation_name: str, limit: int, before: int
) -> list[VersionView]:
    """At most ``limit`` versions below ``before``, newest first.

    Raises:
        UnknownThing: there is no such federation.
    """
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        found = await store.list_versions(session, federation.id, before, limit)
    return [VersionView(*one) for one in found]


async def open_weights(
    context: Context,
    chains: DeltaChains,
    principal: Principal,
    federation_name: str,
    version: int,
    *,
    since: int | None = None,
    byte_range: str | None = None,
) -> OutgoingWeights:
    """A version's file, or the deltas that lead to it from version ``since`` where that is less.

    The whole is sent where it is smaller than the deltas, and where these are not all kept,
    damaged, or too many for the header of one file. ``byte_range`` is a ``Range`` header; forms
    other than one range mean all, and the deltas are always sent whole.

    Raises:
        UnknownThing: no such federation or version.
        VersionRemoved: the version is no longer kept.
        RangeNotSatisfiable: the range starts behind the end.
    """
    deltas: Sequence[StoredDelta] = ()
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        weights = await store.find(session, federation.id, version)
        blob_id = _blob_of(weights)
        size_bytes = await blobs.size_bytes(session, blob_id)
        if since is not None:
            deltas = await store.deltas_between(session, federation.id, since, version)
    if since is not None and 0 < len(deltas) == version - since:
        chain = await _chain(context, chains, federation_name, deltas, size_bytes)
        if chain is not None:
            body = _counted(context, principal, chain.read(context.blobs))
            end = chain.size_bytes
            return OutgoingWeights(weights.digest, end, 0, end, body, is_chain=True)
    start, end = _parse_range(byte_range, size_bytes)
    body = _counted(context, principal, context.blobs.read(blob_id, start, end))
    return OutgoingWeights(weights.digest, size_bytes, start, end, body)


async def _chain(
    context: Context,
    chains: DeltaChains,
    federation_name: str,
    deltas: Sequence[StoredDelta],
    whole_bytes: int,
) -> ChainFile | None:
    """The file of some deltas; None if it is better, or only possible, to send the whole."""
    if sum(delta.size_bytes for delta in deltas) >= whole_bytes:
        return None
    try:
        file = await chains.file(context.blobs, deltas)
    except DamagedBlobError as error:
        _log.error("deltas could not be sent", federation=federation_name, why=str(error))
        return None
    return file if file.is_readable else None


def _blob_of(weights: WeightsRow) -> int:
    if weights.blob_id is None:
        how = "; build them from the specification's seed" if weights.version == 0 else ""
        raise VersionRemoved(
            f"weights of version {weights.version} are no longer kept{how}",
            version=weights.version,
            digest=weights.digest,
        )
    return weights.blob_id


def _parse_range(header: str | None, size_bytes: int) -> tuple[int, int]:
    match = _ONE_RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.group(1) == match.group(2) == "":
        return 0, size_bytes
    first, last = match.group(1), match.group(2)
    if first == "":
        return max(0, size_bytes - int(last)), size_bytes
    start = int(first)
    end = min(int(last) + 1, size_bytes) if last else size_bytes
    if start >= size_bytes or start >= end:
        raise RangeNotSatisfiable(f"the weights have {size_bytes} bytes", size_bytes=size_bytes)
    return start, end


async def _counted(
    context: Context, principal: Principal, chunks: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """Passes chunks on, and writes to the client's live assignment how many bytes went out."""
    sent = 0
    try:
        async for chunk in chunks:
            yield chunk
            sent += len(chunk)
    finally:
        context.metrics.weights_bytes.inc(sent)
        if isinstance(principal, ClientPrincipal):
            with contextlib.suppress(SQLAlchemyError):  # a number for reports; the bytes are sent
                async with context.database.writing(durable=False) as session:
                    await assignment_store.count_download(
                        session, principal.federation.id, principal.client.id, sent
                    )
