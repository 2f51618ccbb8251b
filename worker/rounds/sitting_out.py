"""A round that a client takes no part in: the log and the coordinator are told why."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress

import structlog
import torch

from shared.rest.declines import DECLINE_WORDS, MAX_REASON, DeclineKind
from shared.terminal.printable import printable
from worker.errors import DataError, PolicyRefused, Refused, RequestFailed, SumRefused
from worker.remote.patience import Patience
from worker.rounds.held_task import LeasedTask

TRAINING_FAILED = DECLINE_WORDS[DeclineKind.OTHER]
SUM_REFUSED = "secure sum refused, round skipped"
UPDATE_REFUSED = "update refused, round skipped"
POLICY_REFUSED = "the site's policy refuses, round skipped"
CANNOT_WORK = "this machine cannot do the round"

_log = structlog.get_logger()


async def sit_out(
    one: LeasedTask,
    event: str,
    kind: DeclineKind,
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
        kind: of the reason, for the coordinator.
        reason: for the log.
        patience: with a coordinator that is not reached.
        said: to the coordinator in place of the reason. Where the site's policy switches text off,
            the kind's own words are said.
        joined_round: of a later secure sum that the client has joined, if that is why.

    Raises:
        Unreachable: nobody takes the message for too long.
    """
    client, task = one.client, one.task
    log = _log.bind(client=client.name, round=task.round_number, kind=task.kind.value)
    client.failed_in_round = task.round_number
    log.error(event, reason=reason, reason_kind=kind.value)
    if not client.tells_why:
        said = DECLINE_WORDS[kind]
    shown = printable(said or reason)[:MAX_REASON]
    try:
        await patience.insist(
            "declining a round", lambda: client.api.decline(task, kind, shown, joined_round)
        )
    except Refused as refusal:
        if refusal.shuts_out:
            client.shut_out(refusal.problem.detail)
        else:  # the round is over, or is decided without this client
            log.warning("decline not wanted", detail=refusal.problem.detail)


async def refuse_sum(one: LeasedTask, refusal: SumRefused, patience: Patience) -> None:
    """Declines a round whose secure sum would show too much."""
    await sit_out(
        one,
        SUM_REFUSED,
        DeclineKind.SECURE_SUM,
        str(refusal),
        patience,
        joined_round=refusal.joined_round,
    )


async def refuse_by_policy(one: LeasedTask, refusal: PolicyRefused, patience: Patience) -> None:
    """Declines a round that the site's policy excludes; the site's own numbers stay in its log."""
    await sit_out(one, POLICY_REFUSED, refusal.kind, str(refusal), patience, said=refusal.rule)


async def give_up(one: LeasedTask, kind: DeclineKind, reason: str, patience: Patience) -> None:
    """Declines a round that the client has nothing to send for: training again fails again.

    In a secure sum the reason stays in the site's log: it may tell how many examples there are.
    So does one of no known kind, which a method of the site's own may have written.
    """
    stays = one.client.member is not None or kind is DeclineKind.OTHER
    await sit_out(
        one, TRAINING_FAILED, kind, reason, patience, said=DECLINE_WORDS[kind] if stays else None
    )


async def leave_out(one: LeasedTask, detail: str, patience: Patience) -> None:
    """Declines a round whose update the coordinator refuses: the same would be refused again."""
    kind = DeclineKind.UPDATE_REFUSED
    said = f"{DECLINE_WORDS[kind]}: {detail}"
    await sit_out(one, UPDATE_REFUSED, kind, detail, patience, said=said)


async def break_down(held: Sequence[LeasedTask], error: Exception, patience: Patience) -> None:
    """Declines a round for those whose work ends with an error of the machine or the data.

    Nothing is said of another error. What the error says may name files, and stays in the log.
    """
    kind = fault_of(error)
    if kind is None:
        return
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    said = "its disk is full" if is_full else DECLINE_WORDS[kind]
    for one in held:
        if one.client.failed_in_round != one.task.round_number:
            with suppress(RequestFailed):  # what ends the worker is the error
                await sit_out(one, CANNOT_WORK, kind, str(error), patience, said=said)


def fault_of(error: Exception) -> DeclineKind | None:
    """What of a site's machine or data an error is about; None where it is about neither."""
    if isinstance(error, DataError):
        return DeclineKind.DATA
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return DeclineKind.MEMORY
    if isinstance(error, OSError):
        return DeclineKind.DISK
    return None
