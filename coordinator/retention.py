"""Removes the bytes of versions that the settings do not keep."""

from __future__ import annotations

import structlog

from coordinator import blobs
from coordinator.context import Context
from coordinator.outages import isolated
from coordinator.retained import StoredVersion, surplus_deltas, surplus_weights
from coordinator.store import retention as store

_log = structlog.get_logger()


class Retention:
    """Looks at a federation once after each new version, and once after a start."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._looked_at: dict[int, int] = {}

    async def apply(self) -> None:
        """Removes what is surplus, one version in a transaction, so that nobody waits for long."""
        async with self._context.database.reading() as session:
            newest_versions = await store.newest_versions(session)
        for federation_id, newest in newest_versions.items():
            if self._looked_at.get(federation_id) == newest:
                continue
            with isolated("older versions not removed", federation=federation_id):
                await self._remove_surplus(federation_id, newest)
                self._looked_at[federation_id] = newest

    async def _remove_surplus(self, federation_id: int, newest: int) -> None:
        for stored in await self._surplus(federation_id, newest):
            async with self._context.database.writing(durable=False) as session:
                locked = await blobs.lock(session, [stored.blob_id])
                if not locked:
                    continue  # another replica removes it
                await store.forget(session, stored.blob_id)
                await blobs.delete_blobs(session, locked)
            _log.info(
                "version no longer kept",
                federation=federation_id,
                version=stored.version,
                size_bytes=stored.size_bytes,
            )

    async def _surplus(self, federation_id: int, newest: int) -> list[StoredVersion]:
        settings = self._context.settings
        async with self._context.database.reading() as session:
            weights = await store.kept_weights(session, federation_id)
            deltas = await store.kept_deltas(session, federation_id)
        whole_bytes = max((one.size_bytes for one in weights if one.version == newest), default=0)
        return [
            *surplus_weights(
                weights, newest, settings.keep_last_versions, settings.keep_every_version
            ),
            *surplus_deltas(deltas, newest, settings.keep_last_versions, whole_bytes),
        ]
