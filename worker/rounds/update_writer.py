"""Results of local rounds written as updates, beside the private state that each leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from shared.arrays import NamedArrays
from shared.federation.specification import FederationSpecification, UpdateEncodingName
from shared.rest.schema import UPDATE_METADATA_KEY, Task, UpdateMetadata
from shared.tensors import codec
from shared.tensors.encodings import encoding_for
from worker.methods.interface import TrainingResult
from worker.rounds.held_task import HeldTask
from worker.rounds.private_release import ALONE, PrivateRelease, release_key
from worker.site.private_state import PendingUpdate, PrivateState


class UpdateWriter(Protocol):
    """What an update is made of: the change itself, or a part of a sum."""

    async def prepare(self, fresh: Sequence[HeldTask]) -> list[HeldTask]:
        """Those of the tasks that may be worked on; looks up what writing will need."""

    def trained(self, one: HeldTask, result: TrainingResult, weights: NamedArrays) -> PrivateState:
        """The client's next private state, with the update that is to be sent.

        ``weights`` are those that training started from, float32 by name.
        """

    def evaluated(self, one: HeldTask, metrics: dict[str, float]) -> PrivateState:
        """The client's private state, with the report that is to be sent."""


class PlainWriter:
    """Writes every change so that the coordinator can read it; see :class:`UpdateWriter`."""

    def __init__(self, specification: FederationSpecification) -> None:
        self._specification = specification
        privacy = specification.training.privacy
        self._release = None if privacy is None else PrivateRelease(specification, privacy)

    async def prepare(self, fresh: Sequence[HeldTask]) -> list[HeldTask]:
        """All of them: nothing has to be looked up."""
        return list(fresh)

    def trained(self, one: HeldTask, result: TrainingResult, weights: NamedArrays) -> PrivateState:
        """See :class:`UpdateWriter`."""
        state, deltas, metrics = one.client.state, result.deltas, result.metrics
        num_examples = result.num_examples
        if self._release is not None:
            # Its residual, too, is then of what has noise.
            deltas = self._release.alone(release_key(one, ALONE), result, weights)
            metrics = self._release.metrics(one.task.round_number, metrics)
            num_examples = self._release.said_examples(result)
        encoded = encoding_for(self._specification.encoding).encode(
            deltas, state.residual, weights, self._specification.parameters
        )
        content = self._serialise(one.task, encoded.wire, num_examples, metrics)
        return replace(
            state,
            tensors={name: tensor.numpy() for name, tensor in result.private.items()},
            residual=encoded.residual,
            last_round=one.task.round_number,
        ).with_update(pending_update(one.task, content))

    def evaluated(self, one: HeldTask, metrics: dict[str, float]) -> PrivateState:
        """See :class:`UpdateWriter`."""
        content = self._serialise(one.task, {}, len(one.client.data.test), metrics)
        return one.client.state.with_update(pending_update(one.task, content))

    def _serialise(
        self, task: Task, wire: NamedArrays, num_examples: int, metrics: dict[str, float]
    ) -> bytes:
        return serialise(task, wire, self._specification.encoding.name, num_examples, metrics)


def serialise(
    task: Task,
    wire: NamedArrays,
    encoding: UpdateEncodingName,
    num_examples: int,
    metrics: dict[str, float],
) -> bytes:
    """The file of an update: wire tensors, and what it says of itself."""
    metadata = UpdateMetadata(
        federation=task.federation,
        client=task.client,
        round_number=task.round_number,
        base_version=task.base_version,
        base_digest=task.base_digest,
        encoding=encoding,
        num_examples=num_examples,
        metrics=metrics,
    )
    return codec.encode(wire, {UPDATE_METADATA_KEY: metadata.model_dump_json()})


def pending_update(task: Task, content: bytes) -> PendingUpdate:
    """An update of this task that is still to be sent."""
    return PendingUpdate(task.kind, task.round_number, task.base_version, content, task.base_digest)
