"""When clients were last seen, and what their workers said of themselves then."""

from __future__ import annotations

from datetime import datetime, timedelta

from coordinator.access.identity import ClientPrincipal
from coordinator.context import Context
from coordinator.store import clients as store
from coordinator.store.tables import ClientRow
from shared.rest.worker_about import WorkerAbout

_SEEN_INTERVAL = timedelta(seconds=10)


async def note(context: Context, principal: ClientPrincipal, about: WorkerAbout) -> None:
    """Notes a poll, unless one was noted a moment ago that said the same."""
    now = context.clock()
    if _is_worth_noting(principal.client, now, about):
        async with context.database.writing(durable=False) as session:
            await store.mark_seen(session, principal.client.id, now, about)
        if _is_first_poll(principal.client):
            context.driver_wake.set()


def _is_worth_noting(client: ClientRow, now: datetime, about: WorkerAbout) -> bool:
    """Not every poll is worth a write."""
    seen_at = client.last_seen_at
    known = (client.worker_version, client.torch_version, client.device)
    is_news = known != (about.worker_version, about.torch_version, about.device)
    is_due = seen_at is None or now - seen_at >= _SEEN_INTERVAL
    return is_due or is_news or _is_first_poll(client)


def _is_first_poll(client: ClientRow) -> bool:
    """Whether the client has not asked for work since it enrolled, so that no round counts it."""
    seen_at, enrolled_at = client.last_seen_at, client.enrolled_at
    return seen_at is None or (enrolled_at is not None and seen_at < enrolled_at)
