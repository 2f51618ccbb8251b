"""Sends weights as a stream of chunks, whole or one range of bytes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from coordinator import blobs
from coordinator.auth import ClientPrincipal, Principal
from coordinator.context import Context
from coordinator.errors import RangeNotSatisfiable, VersionRemoved
from coordinator.store import assignments as assignment_store
from coordinator.store import federations as federation_store
from coordinator.store import rounds as round_store
from coordinator.tables import WeightsRow

_log = structlog.get_logger()
_ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


@dataclass(frozen=True)
class OutgoingWeights:
    """A version's bytes from ``start`` to before ``end`` of ``size_bytes``, and their digest."""

    digest: str
    size_bytes: int
    start: int
    end: int
    body: AsyncIterator[bytes]

    @property
    def is_partial(self) -> bool:
        """Whether a range was asked for and is sent."""
        return (self.start, self.end) != (0, self.size_bytes)


async def open_chain(
    context: Context, principal: Principal, federation_name: str, version: int, since: int
) -> OutgoingWeights | None:
    """The deltas that lead from version ``since`` to ``version``; None if the whole is to be sent.

    That is so where the whole is smaller, or the deltas are not all kept, damaged, or too many for
    the header of one file.
    """
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        weights = await federation_store.find_weights(session, federation.id, version)
        deltas = await federation_store.deltas_between(session, federation.id, since, version)
        whole_bytes = await blobs.size_bytes(session, _blob_of(weights))
    chain_bytes = sum(delta.size_bytes for delta in deltas)
    if not 0 < len(deltas) == version - since or chain_bytes >= whole_bytes:
        return None
    try:
        file = await context.delta_chains.file(context.database, deltas)
    except blobs.DamagedBlobError as error:
        _log.error("deltas cannot be sent", federation=federation_name, why=str(error))
        return None
    if not file.is_readable:
        return None
    body = _counted(context, principal, file.read(context.database))
    return OutgoingWeights(weights.digest, file.size_bytes, 0, file.size_bytes, body)


async def open_weights(
    context: Context,
    principal: Principal,
    federation_name: str,
    version: int,
    byte_range: str | None,
) -> OutgoingWeights:
    """A version's file. ``byte_range`` is a ``Range`` header; forms other than one range mean all.

    Raises:
        UnknownThing: no such federation or version.
        VersionRemoved: the version is no longer kept.
        RangeNotSatisfiable: the range starts behind the end.
    """
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        weights = await federation_store.find_weights(session, federation.id, version)
        blob_id = _blob_of(weights)
        size_bytes = await blobs.size_bytes(session, blob_id)
    start, end = _parse_range(byte_range, size_bytes)
    chunks = blobs.read(context.database, blob_id, start, end)
    return OutgoingWeights(
        weights.digest, size_bytes, start, end, _counted(context, principal, chunks)
    )


def _blob_of(weights: WeightsRow) -> int:
    if weights.blob_id is None:
        how = "; build it from the specification's seed" if weights.version == 0 else ""
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
                await _count_download(context, principal, sent)


async def _count_download(context: Context, principal: ClientPrincipal, sent: int) -> None:
    async with context.database.writing(durable=False) as session:
        live = await round_store.find_live(session, principal.federation.id)
        if live is None:
            return
        assignment = await assignment_store.find(session, live.id, principal.client.id)
        if assignment is not None:
            await assignment_store.count_download(session, assignment.id, sent)
