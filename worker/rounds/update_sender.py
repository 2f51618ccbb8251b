"""Sends saved updates until they are answered; what the answer means for the private state."""

from __future__ import annotations

import asyncio

import structlog

from shared.crash_points import reached
from shared.rest.problems import ProblemType
from worker.errors import NotSentYet, Refused
from worker.metrics import WorkerMetrics
from worker.remote.patience import Patience
from worker.rounds.heartbeats import Leases
from worker.rounds.held_task import LeasedTask
from worker.rounds.refused_updates import NOT_ACCEPTED, NOT_WANTED
from worker.rounds.restored_state import check_restored
from worker.rounds.sitting_out import leave_out

_log = structlog.get_logger()


class UpdateSender:
    """Sends what clients have pending.

    Both raise PrivateStateError if the coordinator knows of a newer private state of the client.
    """

    def __init__(self, patience: Patience, metrics: WorkerMetrics) -> None:
        self._patience = patience
        self._metrics = metrics

    async def settle(self, one: LeasedTask) -> None:
        """Sends an update of an earlier round again, whose answer a crash kept from us.

        Whether it is recorded decides whether what it left out belongs into the next one. Its
        attempt is not kept, nor needed: the round is over, and only a recorded update is known.
        """
        client, pending = one.client, one.client.state.pending
        if pending is None:
            return
        earlier = one.task.model_copy(update={"round_number": pending.round_number, "attempt": 1})
        log = _log.bind(client=client.name, round=pending.round_number)
        try:
            await self._patience.insist(
                "settling an update",
                lambda: client.api.put_update(earlier, pending.content, client.told_generation),
            )
        except Refused as refusal:
            check_restored(client, refusal)
            if refusal.shuts_out:
                client.shut_out(refusal.problem.detail)
                return
            if not refusal.is_a(ProblemType.LEASE_LOST, *NOT_WANTED, *NOT_ACCEPTED):
                raise
            log.warning("earlier update not recorded", detail=refusal.problem.detail)
            await asyncio.to_thread(client.discard_pending)
        else:
            log.info("earlier update was recorded")
            await asyncio.to_thread(client.confirm_pending)

    async def upload(self, one: LeasedTask, leases: Leases) -> None:
        """Sends the pending update until it is answered; then none is pending."""
        client, task = one.client, one.task
        pending = client.state.pending
        if pending is None:
            return
        log = _log.bind(client=client.name, round=task.round_number)
        try:
            with self._metrics.phase(
                "upload", client=client.name, attempt=task.attempt, bytes=len(pending.content)
            ):
                receipt = await self._patience.insist(
                    "sending an update",
                    lambda: client.api.put_update(task, pending.content, client.told_generation),
                )
            reached("update-unconfirmed")
        except NotSentYet:
            log.info("update saved, to be sent by `hyperfl worker send`")
        except Refused as refusal:
            check_restored(client, refusal)
            if refusal.is_a(ProblemType.LEASE_LOST):
                # Kept: the next task may ask for the same round under a newer attempt.
                log.warning("lease lost, update kept", detail=refusal.problem.detail)
                return
            if refusal.shuts_out:
                client.shut_out(refusal.problem.detail)
                return
            if not refusal.is_a(*NOT_ACCEPTED, *NOT_WANTED):
                raise
            await asyncio.to_thread(client.discard_pending)
            if refusal.is_a(*NOT_WANTED):
                log.warning("update not wanted", detail=refusal.problem.detail)
                return
            # Training again would give the same, so this client sits the round out.
            await leave_out(one, refusal.problem.detail, self._patience)
        else:
            log.info("update sent", size_bytes=receipt.size_bytes)
            await asyncio.to_thread(client.confirm_pending)
        finally:
            leases.drop(client.name)
