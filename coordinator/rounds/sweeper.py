"""Deletes the bytes that no round, version or upload needs any longer, and old audit events."""

from __future__ import annotations

from datetime import timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.context import Context
from coordinator.database.outages import isolated
from coordinator.rules.retention import StoredVersion, surplus_deltas, surplus_weights
from coordinator.settings import MAX_UPLOAD_SECONDS
from coordinator.store import audit, blobs, exchange
from coordinator.store import updates as update_store
from coordinator.store import weights as weights_store

_UNSEALED_KEPT = 2 * timedelta(seconds=MAX_UPLOAD_SECONDS)
_LEFTOVERS_EVERY = timedelta(hours=1)
_EVENTS_AT_A_TIME = 1000

_log = structlog.get_logger()


class Sweeper:
    """Every replica has one; what two of them would delete, one does."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._retention = Retention(context)
        self._leftovers_due_at = self._events_due_at = context.clock()

    async def sweep(self) -> None:
        """Deletes all that may go now; what fails keeps nothing else from being deleted."""
        for part in (
            self._delete_undiscarded,
            self._delete_spent,
            self._delete_exchanges,
            self._retention.apply,
            self._delete_leftovers,
            self._delete_old_events,
        ):
            with isolated("sweeping failed", outages_too=True, part=part.__qualname__):
                await part()

    async def _delete_undiscarded(self) -> None:
        undiscarded = self._context.blobs.undiscarded
        if given_up := list(undiscarded):
            async with self._context.database.writing(durable=False) as session:
                await blobs.delete_if_unsealed(session, given_up)
            undiscarded.difference_update(given_up)

    async def _delete_spent(self) -> None:
        """Updates whose round is closed, and residuals of older versions.

        One in a transaction, so that nobody waits for long, and a full disk has room for some.
        What a power failure takes back is deleted again.
        """
        async with self._context.database.reading() as session:
            spent = await update_store.spent_blobs(session)
            residuals = await weights_store.spent_residuals(session)
        for blob_id in (*spent, *residuals):
            with isolated("spent bytes could not be removed", blob=blob_id):
                async with self._context.database.writing(durable=False) as session:
                    await _delete(session, blob_id)

    async def _delete_exchanges(self) -> None:
        """Messages and shares of secure sums that are over."""
        async with self._context.database.reading() as session:
            spent = await exchange.spent_rounds(session)
        for round_id in spent:
            async with self._context.database.writing(durable=False) as session:
                await exchange.forget_round(session, round_id)

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

    async def _delete_old_events(self) -> None:
        """Audit events that are older than the settings keep them, some at a time."""
        now = self._context.clock()
        if now < self._events_due_at:
            return
        before = now - timedelta(days=self._context.settings.audit_days)
        async with self._context.database.writing(durable=False) as session:
            removed = await audit.delete_before(session, before, _EVENTS_AT_A_TIME)
        if removed < _EVENTS_AT_A_TIME:
            self._events_due_at = now + _LEFTOVERS_EVERY
        if removed:
            _log.info("old audit events removed", count=removed)


async def _delete(session: AsyncSession, blob_id: int) -> None:
    locked = await blobs.lock(session, [blob_id])
    if not locked:
        return  # another replica removes it
    await update_store.forget_blobs(session, locked)
    await weights_store.forget_residuals(session, locked)
    await blobs.delete_blobs(session, locked)


class Retention:
    """Looks at a federation once after each new version, and once after a start."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._looked_at: dict[int, int] = {}

    async def apply(self) -> None:
        """Removes what is surplus, one version in a transaction, so that nobody waits for long."""
        async with self._context.database.reading() as session:
            newest_versions = await weights_store.newest_versions(session)
        for (federation_id, name), newest in newest_versions.items():
            if self._looked_at.get(federation_id) == newest:
                continue
            with isolated("older versions could not be removed", federation=name):
                await self._remove_surplus(federation_id, name, newest)
                self._looked_at[federation_id] = newest

    async def _remove_surplus(self, federation_id: int, name: str, newest: int) -> None:
        for stored in await self._surplus(federation_id, newest):
            async with self._context.database.writing(durable=False) as session:
                locked = await blobs.lock(session, [stored.blob_id])
                if not locked:
                    continue  # another replica removes it
                await weights_store.forget(session, stored.blob_id)
                await blobs.delete_blobs(session, locked)
            _log.info(
                "version no longer kept",
                federation=name,
                version=stored.version,
                size_bytes=stored.size_bytes,
            )

    async def _surplus(self, federation_id: int, newest: int) -> list[StoredVersion]:
        settings = self._context.settings
        async with self._context.database.reading() as session:
            weights = await weights_store.kept_weights(session, federation_id)
            deltas = await weights_store.kept_deltas(session, federation_id)
        whole_bytes = max((one.size_bytes for one in weights if one.version == newest), default=0)
        return [
            *surplus_weights(
                weights, newest, settings.keep_last_versions, settings.keep_every_version
            ),
            *surplus_deltas(deltas, newest, settings.keep_last_versions, whole_bytes),
        ]
