"""Results of local rounds written as parts of a secure sum: fixed point under masks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import structlog

from shared.arrays import Array, NamedArrays
from shared.federation.specification import FederationSpecification
from shared.rest.schema import TaskKind
from shared.secure_sum.layout import SumLayout
from shared.secure_sum.masks import RingVector
from shared.secure_sum.messages import JoinedMember
from shared.tensors.low_rank import FactoredDelta, Float64
from worker.errors import SumRefused
from worker.methods.interface import TrainingFailedError, TrainingResult
from worker.methods.local_round.random_streams import client_generator
from worker.remote.patience import Patience
from worker.rounds.held_task import HeldTask
from worker.rounds.sitting_out import refuse_sum
from worker.rounds.update_writer import pending_update, serialise
from worker.secure_sum.member import Member
from worker.secure_sum.member_state import MemberState
from worker.site.private_state import PrivateState

_log = structlog.get_logger()


class MaskedWriter:
    """Writes parts of a sum; see :class:`worker.rounds.update_writer.UpdateWriter`."""

    def __init__(self, specification: FederationSpecification, patience: Patience) -> None:
        self._specification = specification
        self._patience = patience

    async def prepare(self, fresh: Sequence[HeldTask]) -> list[HeldTask]:
        """Those whose round was joined by members that they accept."""
        ready = await asyncio.gather(*(self._look(one) for one in fresh))
        return [one for one, is_ready in zip(fresh, ready, strict=True) if is_ready]

    async def _look(self, one: HeldTask) -> bool:
        member, number = _member_of(one), one.task.round_number
        try:
            member.check_joined(one.client.state.sums, number, _joined(one))
        except SumRefused as refusal:
            await refuse_sum(one, refusal, self._patience)
            return False
        return True

    def trained(self, one: HeldTask, result: TrainingResult, weights: NamedArrays) -> PrivateState:
        """See :class:`worker.rounds.update_writer.UpdateWriter`.

        What rounding and the bound leave out of the change is the residual of the next.
        """
        state, policy = one.client.state, self._specification.round_policy
        layout = self._layout(one)
        wanted = self._wanted(result, state, weights)
        cap = policy.max_examples_weight or 1
        num_examples = min(result.num_examples, cap)
        share = num_examples / cap
        stream = client_generator(state.seed, "rounding", one.task.round_number)
        values, received = layout.fixed_point.encode(
            share * wanted, stream.random(layout.num_values)
        )
        num_cut = int(np.count_nonzero(np.abs(share * wanted) > layout.fixed_point.bound))
        counts = layout.counts_of(num_examples, num_cut, result.metrics)
        content, sums = self._mask(one, layout, RingVector(counts, values, layout.fixed_point.bits))
        return replace(
            state,
            tensors={name: tensor.numpy() for name, tensor in result.private.items()},
            residual=self._split(wanted - received / share),
            last_round=one.task.round_number,
            pending=pending_update(one.task, content),
            sums=sums,
        )

    def evaluated(self, one: HeldTask, metrics: dict[str, float]) -> PrivateState:
        """See :class:`worker.rounds.update_writer.UpdateWriter`."""
        layout = self._layout(one)
        vector = layout.zeros()
        vector.counts[:] = layout.counts_of(1, 0, metrics)
        content, sums = self._mask(one, layout, vector)
        return replace(one.client.state, pending=pending_update(one.task, content), sums=sums)

    def _layout(self, one: HeldTask) -> SumLayout:
        newest = one.client.state.sums.newest
        size = 1 if newest is None else len(newest.terms.cohort)
        kind = "train" if one.task.kind is TaskKind.TRAIN else "evaluate"
        return SumLayout.of(self._specification, kind, size)

    def _mask(
        self, one: HeldTask, layout: SumLayout, vector: RingVector
    ) -> tuple[bytes, MemberState]:
        member, number = _member_of(one), one.task.round_number
        try:
            sums = member.mask(one.client.state.sums, number, _joined(one), vector)
        except SumRefused as refusal:
            raise TrainingFailedError({one.client.name: str(refusal)}) from refusal
        return serialise(one.task, layout.to_wire(vector), "masked", 1, {}), sums

    def _wanted(self, result: TrainingResult, state: PrivateState, weights: NamedArrays) -> Float64:
        """The change of all shared tensors (m,), what was left out before it added, clipped."""
        parts = []
        for tensor in self._specification.parameters.tensors:
            change = result.deltas[tensor.name]
            if isinstance(change, FactoredDelta):
                change = change.dense(weights[tensor.name])
            part = change.astype(np.float64).reshape(-1)
            if (left_out := state.residual.get(tensor.name)) is not None:
                part += np.asarray(left_out, np.float64).reshape(-1)
            parts.append(part)
        wanted = np.concatenate(parts) if parts else np.zeros(0)
        largest = self._specification.round_policy.max_update_norm
        norm = float(np.linalg.norm(wanted))
        return wanted if largest is None or norm <= largest else wanted * (largest / norm)

    def _split(self, values: Float64) -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        start = 0
        for tensor in self._specification.parameters.tensors:
            part = values[start : start + tensor.num_elements]
            start += tensor.num_elements
            arrays[tensor.name] = part.astype(np.float32).reshape(tensor.shape)
        return arrays


def _joined(one: HeldTask) -> Sequence[JoinedMember]:
    return () if one.task.exchange is None else one.task.exchange.joined


def _member_of(one: HeldTask) -> Member:
    if one.client.member is None:
        raise SumRefused(f"client {one.client.name} has no keys for secure sums")
    return one.client.member
