"""A round that a client takes no part in: the log and the coordinator are told why."""

from __future__ import annotations

import structlog

from shared.rest.schema import MAX_REASON
from shared.terminal.printable import printable
from worker.errors import PolicyRefused, Refused, SumRefused
from worker.remote.patience import Patience
from worker.rounds.held_task import LeasedTask

TRAINING_FAILED = "training failed, no update is sent"
SUM_REFUSED = "secure sum refused, round skipped"
UPDATE_REFUSED = "update refused, round skipped"
POLICY_REFUSED = "the site's policy refuses, round skipped"

_log = structlog.get_logger()


async def sit_out(
    one: LeasedTask,
    event: str,
    reason: str,
    patience: Patience,
    *,
    said: str | None = None,
    joined_round: int | None = None,
) -> None:
    """The client takes no further part in the round, which then does not wait for it.

    Args:
        one: the work that is declined.
        event: of the log.
        reason: for the log.
        patience: with a coordinator that is not reached.
        said: to the coordinator in place of the reason.
        joined_round: of a later secure sum that the client has joined, if that is why.

    Raises:
        Unreachable: nobody takes the message for too long.
    """
    client, task = one.client, one.task
    log = _log.bind(client=client.name, round=task.round_number, kind=task.kind.value)
    client.failed_in_round = task.round_number
    log.error(event, reason=reason)
    shown = printable(said or reason)[:MAX_REASON]
    try:
        await patience.insist(
            "declining a round", lambda: client.api.decline(task, shown, joined_round)
        )
    except Refused as refusal:
        if refusal.shuts_out:
            client.shut_out(refusal.problem.detail)
        else:  # the round is over, or is decided without this client
            log.warning("decline not wanted", detail=refusal.problem.detail)


async def refuse_sum(one: LeasedTask, refusal: SumRefused, patience: Patience) -> None:
    """Declines a round whose secure sum would show too much."""
    await sit_out(one, SUM_REFUSED, str(refusal), patience, joined_round=refusal.joined_round)


async def refuse_by_policy(one: LeasedTask, refusal: PolicyRefused, patience: Patience) -> None:
    """Declines a round that the site's policy excludes; the site's own numbers stay in its log."""
    await sit_out(one, POLICY_REFUSED, str(refusal), patience, said=refusal.rule)


async def give_up(one: LeasedTask, reason: str, patience: Patience) -> None:
    """Declines a round that the client has nothing to send for: training again fails again.

    In a secure sum the reason stays in the site's log: it may tell how many examples there are.
    """
    said = None if one.client.member is None else TRAINING_FAILED
    await sit_out(one, TRAINING_FAILED, reason, patience, said=said)


async def leave_out(one: LeasedTask, detail: str, patience: Patience) -> None:
    """Declines a round whose update the coordinator refuses: the same would be refused again."""
    said = f"the coordinator refuses its update: {detail}"
    await sit_out(one, UPDATE_REFUSED, detail, patience, said=said)
