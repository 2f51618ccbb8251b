"""What stays at the site of a round: its best version, and a line of its history."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from shared.arrays import NamedArrays, digest_bytes
from shared.rest.schema import UPDATE_METADATA_KEY, UpdateMetadata
from shared.tensors import codec
from worker.data.client_data import ClientData
from worker.methods.interface import GivesLogits, Method, Participant
from worker.rounds.held_task import HeldTask
from worker.rounds.policy_gate import PolicyGate
from worker.site.history import HistoryRow, Sent, SentTensor, Validation
from worker.site.private_state import PendingUpdate, PrivateState
from worker.site.scores import scores_of
from worker.site.validation import keep_if_best


class SiteRecord:
    """Measures what no coordinator is told, and keeps it beside the private state."""

    def __init__(self, method: Method, gate: PolicyGate) -> None:
        self._method = method
        self._gate = gate

    def keep(
        self,
        one: HeldTask,
        state: PrivateState,
        metrics: Mapping[str, float],
        weights: NamedArrays,
    ) -> None:
        """Keeps what a round gave, before its state is saved: a crash has it done again.

        Args:
            one: the client and its task.
            state: that the round leaves, with the update that is to be sent.
            metrics: all that the method measured.
            weights: that the round began with, float32 by name.

        Raises:
            OSError: the disk does not take it.
            PrivateStateError: what was best before cannot be read.
        """
        client, task = one.client, one.task
        private = {name: torch.from_numpy(array.copy()) for name, array in state.tensors.items()}
        best = keep_if_best(
            client,
            self._method,
            private,
            weights,
            version=task.base_version,
            digest=task.base_digest,
            round_number=task.round_number,
        )
        validation = None
        if best is not None:
            validation = Validation(
                accuracy=best.accuracy, loss=best.loss, examples=best.num_examples
            )
        row = HistoryRow(
            at=self._gate.now(),
            round_number=task.round_number,
            kind=task.kind,
            weights_version=task.base_version,
            weights_digest=task.base_digest,
            examples=_examples(client.data),
            metrics=metrics,
            validation=validation,
            sent=self._sent(state.pending, metrics),
        )
        if isinstance(self._method, GivesLogits):
            participant = Participant(client.name, client.data, private, state.seed)
            test = client.data.test
            logits = self._method.test_logits(participant, weights)
            if bool(logits.isfinite().all()):
                scores = scores_of(logits, test.labels, test.class_names)
                row = row.model_copy(update={"scores": scores})
        client.remember(row)

    def _sent(self, pending: PendingUpdate | None, metrics: Mapping[str, float]) -> Sent:
        if pending is None:
            raise ValueError("a round leaves an update that is to be sent")
        content = pending.content
        tensors, metadata = codec.decode(content)
        said = UpdateMetadata.model_validate_json(metadata[UPDATE_METADATA_KEY]).metrics
        policy = self._gate.policy
        changed = policy.model_dump(mode="json", exclude_defaults=True)
        return Sent(
            bytes=len(content),
            digest=digest_bytes(content),
            tensors=tuple(
                SentTensor(name=name, bytes=array.nbytes) for name, array in tensors.items()
            ),
            metrics=said,
            withheld_metrics=tuple(sorted(metrics.keys() - self._gate.shown(metrics).keys())),
            policy=changed | {"metrics": policy.model_dump(mode="json")["metrics"]},
        )


def _examples(data: ClientData) -> dict[str, dict[str, int]]:
    counted = {}
    for split, examples in data.splits.items():
        names = examples.class_names
        counts = torch.bincount(examples.labels, minlength=len(names)).tolist()
        counted[split] = dict(zip(names, counts, strict=True))
    return counted
