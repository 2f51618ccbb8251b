"""Keeps the lease of a spooled task alive, and takes the task away when its round is over."""

from __future__ import annotations

import structlog

from shared.rest.problems import ProblemType
from shared.rest.schema import Task
from worker.errors import Refused, Unreachable
from worker.remote.coordinator import Coordinator
from worker.spool.folder import Spool

_log = structlog.get_logger()


async def keep_alive(spool: Spool, api: Coordinator, task: Task) -> str:
    """One heartbeat; what it says of the task, in a line.

    A lease that is lost may be had again, and a coordinator that is away comes back: the task stays
    then. Training that meets its task gone ends after its step.
    """
    try:
        await api.heartbeat(task)
    except Unreachable as error:
        _log.warning("heartbeat failed", client=task.client, error=str(error))
        return "the coordinator is not reached"
    except Refused as refusal:
        if refusal.is_a(ProblemType.LEASE_LOST):
            return "lease lost: `hyperfl worker fetch` asks for it again"
        _log.warning("work dropped", client=task.client, detail=refusal.problem.detail)
        spool.drop_task(task)
        return f"dropped: {refusal.problem.detail}"
    return "to be trained, lease kept"
