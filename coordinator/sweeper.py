"""Deletes the bytes that no round, no version and no upload needs any more."""

from __future__ import annotations

from datetime import timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator import blobs
from coordinator.context import Context
from coordinator.outages import isolated
from coordinator.retention import Retention
from coordinator.settings import MAX_UPLOAD_SECONDS
from coordinator.store import federations as federation_store
from coordinator.store import updates as update_store

_UNSEALED_KEPT = 2 * timedelta(seconds=MAX_UPLOAD_SECONDS)
_LEFTOVERS_EVERY = timedelta(hours=1)

_log = structlog.get_logger()


class Sweeper:
    """Every replica has one; what two of them would delete, one does."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._retention = Retention(context)
        self._leftovers_due_at = context.clock()

    async def sweep(self) -> None:
        """Deletes all that may go now; what fails keeps nothing else from being deleted."""
        for part in (
            self._delete_undiscarded,
            self._delete_spent,
            self._retention.apply,
            self._delete_leftovers,
        ):
            with isolated("sweeping failed", outages_too=True, part=part.__qualname__):
                await part()

    async def _delete_undiscarded(self) -> None:
        database = self._context.database
        if undiscarded := list(database.undiscarded_blobs):
            async with database.writing(durable=False) as session:
                await blobs.delete_if_unsealed(session, undiscarded)
            database.undiscarded_blobs.difference_update(undiscarded)

    async def _delete_spent(self) -> None:
        """Updates whose round is closed, and residuals of older versions.

        One in a transaction, so that nobody waits for long, and a full disk has room for some.
        What a power failure takes back is deleted again.
        """
        async with self._context.database.reading() as session:
            spent = await update_store.spent_blobs(session)
            residuals = await federation_store.spent_residuals(session)
        for blob_id in (*spent, *residuals):
            with isolated("spent bytes not removed", blob=blob_id):
                async with self._context.database.writing(durable=False) as session:
                    await _delete(session, blob_id)

    async def _delete_leftovers(self) -> None:
        """Unsealed blobs that are too old to be an upload in progress, of any replica."""
        now = self._context.clock()
        if now < self._leftovers_due_at:
            return
        async with self._context.database.writing() as session:
            removed = await blobs.delete_unsealed(session, now - _UNSEALED_KEPT)
        self._leftovers_due_at = now + _LEFTOVERS_EVERY
        if removed:
            _log.info("unfinished blobs removed", count=removed)


async def _delete(session: AsyncSession, blob_id: int) -> None:
    locked = await blobs.lock(session, [blob_id])
    if not locked:
        return  # another replica removes it
    await update_store.forget_blobs(session, locked)
    await federation_store.forget_residuals(session, locked)
    await blobs.delete_blobs(session, locked)
