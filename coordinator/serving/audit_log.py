"""Who did what, when, from where, and how it ended: changes, refusals, and who looked at what.

An event is written before its answer is sent. Should the database not take it, it is in the log.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from coordinator.context import Context
from coordinator.serving.rate_limiter import RateLimiter
from coordinator.store.tables import AuditRow

_REFUSALS_PER_SECOND, _REFUSALS_AT_ONCE = 1.0, 100.0
_SAME_READS_PER_SECOND = 1 / 3600
_CLIENTS_CHANGES_PER_SECOND, _CLIENTS_CHANGES_AT_ONCE = 0.1, 100.0
"""A client changes something a few times a round; administrators' changes are always written."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Event:
    """What is to be written; every text is redacted."""

    actor: str
    action: str
    subject: str
    address: str
    outcome: str


class AuditLog:
    """Writes events; limits each actor's refusals and each client's changes.

    So nobody but an administrator can fill the disk.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._refusals = RateLimiter(_REFUSALS_PER_SECOND, _REFUSALS_AT_ONCE)
        self._reads = RateLimiter(_SAME_READS_PER_SECOND, 1.0)
        self._clients_changes = RateLimiter(_CLIENTS_CHANGES_PER_SECOND, _CLIENTS_CHANGES_AT_ONCE)
        self._left_out = 0

    async def write_read(self, event: Event) -> None:
        """Writes that somebody looked at something, once an hour for the same actor and subject."""
        key = f"{event.actor}\n{event.action}\n{event.subject}"
        if self._reads.spend(key, self._context.clock().timestamp()) == 0:
            await self.write(event, is_refusal=False, durable=False)

    async def write(self, event: Event, *, is_refusal: bool, durable: bool) -> None:
        """Writes one event, unless its actor has had too many; those are counted in the next.

        A request that was answered 503 leaves its event only in the log: what kept it from being
        served keeps an event from being stored, and its client would wait for both.
        """
        now = self._context.clock()
        if self._is_one_too_many(event, now.timestamp(), is_refusal=is_refusal):
            self._left_out += 1
            return
        if event.outcome.startswith("503"):
            _log.warning("audit event not stored", why="answered 503", **vars(event))
            return
        left_out, self._left_out = self._left_out, 0
        try:
            async with self._context.database.writing(durable=durable) as session:
                session.add(AuditRow(at=now, left_out=left_out, **vars(event)))
        except SQLAlchemyError as error:
            self._left_out += left_out
            _log.error("audit event not stored", why=type(error).__name__, **vars(event))

    def _is_one_too_many(self, event: Event, now_seconds: float, *, is_refusal: bool) -> bool:
        if is_refusal:
            return self._refusals.spend(event.actor, now_seconds) > 0
        if event.actor.startswith(("admin ", "read-only ")):
            return False
        return self._clients_changes.spend(event.actor, now_seconds) > 0
