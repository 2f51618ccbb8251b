"""The messages of a secure sum beside the update: made, saved, then sent until answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import structlog

from shared.crash_points import reached
from shared.rest.problems import ProblemType
from shared.rest.schema import TaskKind
from shared.secure_sum.messages import Confirmation, ExchangeView, Join, Unmasking
from worker.errors import PolicyRefused, Refused, SumRefused
from worker.remote.patience import Patience
from worker.rounds.held_task import HeldTask
from worker.rounds.policy_gate import PolicyGate
from worker.rounds.restored_state import check_restored
from worker.rounds.sitting_out import refuse_by_policy, refuse_sum
from worker.secure_sum.member_state import MemberState, RoundExchange

_NOT_WANTED = (
    ProblemType.ROUND_CLOSED,
    ProblemType.LEASE_LOST,
    ProblemType.UPDATE_CONFLICT,
    ProblemType.NOT_FOUND,
    ProblemType.FEDERATION_FINISHED,
)
"""The phase is over, or goes on without this message."""

_log = structlog.get_logger()


class ExchangeWork:
    """Works on tasks of a secure sum that need no training."""

    def __init__(self, patience: Patience, gate: PolicyGate) -> None:
        self._patience = patience
        self._gate = gate

    async def do(self, held: Sequence[HeldTask]) -> None:
        """Does all tasks, which are of the same round and kind.

        Raises:
            PrivateStateError: the coordinator has had messages of a newer private state.
            PeerChanged: another client shows other keys than before.
            Refused, Unreachable: the work cannot go on.
        """
        await asyncio.gather(*(self._do(one) for one in held))

    async def _do(self, one: HeldTask) -> None:
        client, task = one.client, one.task
        try:
            message = await asyncio.to_thread(_make_message, one, self._gate)
        except SumRefused as refusal:
            await refuse_sum(one, refusal, self._patience)
            return
        except PolicyRefused as refusal:
            await refuse_by_policy(one, refusal, self._patience)
            return
        try:
            await self._patience.insist(
                "sending a secure sum's message", lambda: client.api.put_message(task, message)
            )
        except Refused as refusal:
            await self._give_up(one, refusal)
        else:
            _log.debug("message of a secure sum sent", client=client.name, kind=task.kind.value)
        reached("exchange-answered")

    async def _give_up(self, one: HeldTask, refusal: Refused) -> None:
        check_restored(one.client, refusal)
        if refusal.shuts_out:
            one.client.shut_out(refusal.problem.detail)
        elif refusal.is_a(ProblemType.MALFORMED_UPDATE):
            await refuse_sum(one, SumRefused(refusal.problem.detail), self._patience)
        elif refusal.is_a(*_NOT_WANTED):
            _log.warning(
                "message not wanted",
                client=one.client.name,
                kind=one.task.kind.value,
                detail=refusal.problem.detail,
            )
        else:
            raise refusal


def _make_message(one: HeldTask, gate: PolicyGate) -> Join | Confirmation | Unmasking:
    """What the task asks for, saved before anybody has it."""
    view = one.task.exchange or ExchangeView()
    client, number = one.client, one.task.round_number
    sums = client.state.sums
    if one.task.kind is TaskKind.JOIN:
        if view.terms is None or view.terms.round_number != number:
            raise SumRefused("there are no terms to join")
        if view.terms.kind == "train":  # the round is counted when it is trained
            gate.check(one)
            gate.join_cohort(one, [card.client for card in view.terms.cohort])
        client.meet(view.terms.cohort)
    member = client.member
    if member is None:
        raise SumRefused(f"client {client.name} has no keys for secure sums")
    if one.task.kind is TaskKind.JOIN and view.terms is not None:
        return _saved(one, member.join(sums, view.terms)).join
    if one.task.kind is TaskKind.CONFIRM:
        exchange = _saved(one, member.confirm(sums, number, view.survivors))
        message: Confirmation | Unmasking | None = exchange.confirmation
    else:
        message = _saved(one, member.unmask(sums, number, view)).unmasking
    if message is None:
        raise SumRefused("there is nothing to send")
    return message


def _saved(one: HeldTask, sums: MemberState) -> RoundExchange:
    if sums != one.client.state.sums:
        one.client.save(replace(one.client.state, sums=sums))
        reached("exchange-saved")
    if sums.newest is None:
        raise SumRefused("there is nothing to send")
    return sums.newest
