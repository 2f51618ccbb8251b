"""Results of local rounds written as parts of a secure sum: fixed point under masks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import structlog

from shared.arrays import Array, NamedArrays
from shared.federation.specification import FederationSpecification
from shared.rest.declines import DeclineKind
from shared.rest.schema import TaskKind
from shared.secure_sum.fixed_point import Ring32
from shared.secure_sum.layout import METRICS, SumLayout
from shared.secure_sum.masks import RingVector
from shared.secure_sum.messages import JoinedMember
from shared.tensors.low_rank import Float64
from worker.errors import SumRefused
from worker.methods.interface import TrainingFailedError, TrainingResult
from worker.methods.local_round.random_streams import client_generator
from worker.remote.patience import Patience
from worker.rounds.flat_changes import clipped, flat_change, split
from worker.rounds.held_task import HeldTask
from worker.rounds.private_release import PrivateRelease, release_key
from worker.rounds.sitting_out import refuse_sum
from worker.rounds.update_writer import pending_update, serialise
from worker.secure_sum.member import Member
from worker.secure_sum.member_state import MemberState
from worker.site.private_state import PrivateState

_log = structlog.get_logger()


class MaskedWriter:
    """Writes parts of a sum; see :class:`worker.rounds.update_writer.UpdateWriter`."""

    def __init__(
        self,
        specification: FederationSpecification,
        patience: Patience,
        *,
        shows_own_metrics: bool = False,
    ) -> None:
        self._specification = specification
        self._patience = patience
        self._shows_own_metrics = shows_own_metrics
        privacy = specification.training.privacy
        self._release = None if privacy is None else PrivateRelease(specification, privacy)

    async def prepare(self, fresh: Sequence[HeldTask]) -> list[HeldTask]:
        """Those whose round was joined by members that they accept."""
        ready = await asyncio.gather(*(self._look(one) for one in fresh))
        return [one for one, is_ready in zip(fresh, ready, strict=True) if is_ready]

    async def _look(self, one: HeldTask) -> bool:
        member, number, state = _member_of(one), one.task.round_number, one.client.state.sums
        try:
            member.check_joined(state, number, _joined(one))
            member.check_task(state, number, _kind_of(one), one.task.base_digest)
        except SumRefused as refusal:
            await refuse_sum(one, refusal, self._patience)
            return False
        return True

    def trained(self, one: HeldTask, result: TrainingResult, weights: NamedArrays) -> PrivateState:
        """See :class:`worker.rounds.update_writer.UpdateWriter`.

        What rounding and the bound leave out of the change is the residual of the next.
        """
        state, layout = one.client.state, self._layout(one)
        residual: dict[str, Array] = {}
        if self._release is None:
            num_examples, num_cut, values, residual = self._rounded(one, layout, result, weights)
        else:
            # What is left out, or how many values are cut, would say without noise what they are.
            num_cut = 0
            cohort = ",".join(sorted(member.client for member in _joined(one)))
            key = release_key(one, cohort)
            num_examples, values = self._release.part_of_sum(key, layout, result, weights)
        counts = layout.counts_of(num_examples, num_cut, result.metrics)
        vector = RingVector(counts, values, layout.fixed_point.bits)
        content, sums = self._mask(one, layout, vector, result.metrics)
        return replace(
            state,
            tensors={name: tensor.numpy() for name, tensor in result.private.items()},
            residual=residual,
            last_round=one.task.round_number,
            pending=pending_update(one.task, content),
            sums=sums,
        )

    def _rounded(
        self, one: HeldTask, layout: SumLayout, result: TrainingResult, weights: NamedArrays
    ) -> tuple[int, int, Ring32, dict[str, Array]]:
        """Examples that count, how many values were cut, the values, and what they leave out."""
        state, parameters = one.client.state, self._specification.parameters
        wanted = self._wanted(result, state, weights)
        cap = self._specification.round_policy.max_examples_weight or 1
        num_examples = min(result.num_examples, cap)
        share = num_examples / cap
        stream = client_generator(state.seed, "rounding", one.task.round_number)
        values, received = layout.fixed_point.encode(
            share * wanted, stream.random(layout.num_values)
        )
        num_cut = int(np.count_nonzero(np.abs(share * wanted) > layout.fixed_point.bound))
        return num_examples, num_cut, values, split(wanted - received / share, parameters)

    def evaluated(self, one: HeldTask, metrics: dict[str, float]) -> PrivateState:
        """See :class:`worker.rounds.update_writer.UpdateWriter`."""
        layout = self._layout(one)
        vector = layout.zeros()
        vector.counts[:] = layout.counts_of(1, 0, metrics)
        content, sums = self._mask(one, layout, vector, metrics)
        return replace(one.client.state, pending=pending_update(one.task, content), sums=sums)

    def _layout(self, one: HeldTask) -> SumLayout:
        newest = one.client.state.sums.newest
        size = 1 if newest is None else len(newest.terms.cohort)
        return SumLayout.of(self._specification, _kind_of(one), size, one.task.round_number)

    def _mask(
        self,
        one: HeldTask,
        layout: SumLayout,
        vector: RingVector,
        metrics: Mapping[str, float],
    ) -> tuple[bytes, MemberState]:
        member, number = _member_of(one), one.task.round_number
        try:
            sums = member.mask(one.client.state.sums, number, _joined(one), vector)
        except SumRefused as refusal:
            raise TrainingFailedError(
                {one.client.name: str(refusal)}, DeclineKind.SECURE_SUM
            ) from refusal
        summed = METRICS[layout.kind] if self._shows_own_metrics else ()
        own = {name: metrics[name] for name in summed if name in metrics}
        return serialise(one.task, layout.to_wire(vector), "masked", 1, own), sums

    def _wanted(self, result: TrainingResult, state: PrivateState, weights: NamedArrays) -> Float64:
        """The change of all shared tensors (m,), what was left out before it added, clipped."""
        parameters = self._specification.parameters
        wanted = flat_change(result, weights, parameters)
        if state.residual:
            left_out = [
                np.asarray(state.residual[tensor.name], np.float64).reshape(-1)
                for tensor in parameters.tensors
            ]
            wanted += np.concatenate([np.zeros(0), *left_out])
        largest = self._specification.round_policy.max_update_norm
        return wanted if largest is None else clipped(wanted, largest)


def _kind_of(one: HeldTask) -> str:
    return "train" if one.task.kind is TaskKind.TRAIN else "evaluate"


def _joined(one: HeldTask) -> Sequence[JoinedMember]:
    return () if one.task.exchange is None else one.task.exchange.joined


def _member_of(one: HeldTask) -> Member:
    if one.client.member is None:
        raise SumRefused(f"client {one.client.name} has no keys for secure sums")
    return one.client.member
