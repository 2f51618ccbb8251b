"""What a client would send, and what the coordinator would see of it: as rounds do, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from shared.arrays import Array
from shared.federation.plans import TrainingPlan
from shared.secure_sum.fixed_point import FixedPoint
from shared.tensors.encodings import encoding_for
from shared.tensors.factored_encoding import Delta
from shared.tensors.low_rank import FactoredDelta
from worker.attacks.observation import Observation
from worker.audit.subject import Subject
from worker.data.client_data import Examples
from worker.methods import build_method
from worker.methods.interface import Participant, SiteResources
from worker.methods.local_round.random_streams import client_generator

_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Upload:
    """One client's update, before it is summed.

    Attributes:
        changes: as the coordinator of a plain federation decodes them.
        num_examples: that it stands for.
        examples: that were trained on.
        client: the client's name.
    """

    changes: dict[str, Delta]
    num_examples: int
    examples: Examples
    client: str


class Replay:
    """Rounds of a subject's federation, with other plans where one is given."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._specification = subject.specification
        self._resources = SiteResources(allowed_imports=subject.allowed_imports)

    def plan(self, *, epochs: int | None = None) -> TrainingPlan:
        """The federation's plan, with another number of epochs."""
        training = self._specification.training
        if epochs is None:
            return training
        settings = training.hyperparameters | {"epochs": epochs}
        return training.model_copy(update={"hyperparameters": settings})

    def upload(self, client: Participant, plan: TrainingPlan, examples: Examples) -> Upload:
        """A client's update of one round on some examples.

        Raises:
            WorkerError: the method refuses such a round.
        """
        subject, parameters = self._subject, self._specification.parameters
        method = build_method(plan, _CPU, self._resources)
        member = replace(client, data=replace(client.data, train=examples))
        (result,) = method.train([member], subject.weights, subject.round_number, lambda: False)
        encoding = encoding_for(self._specification.encoding)
        wire = encoding.encode(result.deltas, {}, subject.weights, parameters).wire
        changes = dict(encoding.decode(wire, parameters))
        return Upload(changes, result.num_examples, examples, client.name)

    def seen(self, uploads: Sequence[Upload], plan: TrainingPlan) -> Observation:
        """What the coordinator has: one update, or the mean of several that were summed.

        In a protected federation values are rounded as the secure sum does, and cut at its bound.
        """
        if len(uploads) == 1 and self._specification.protection is None:
            changes = uploads[0].changes
        else:
            changes = self._mean(uploads)
        total = sum(one.num_examples for one in uploads)
        allowed = self._subject.allowed_imports
        return Observation(plan, self._subject.weights, changes, total, allowed)

    def _mean(self, uploads: Sequence[Upload]) -> dict[str, Delta]:
        cap = self._specification.round_policy.max_examples_weight
        counts = [min(one.num_examples, cap or one.num_examples) for one in uploads]
        shares = [count / (cap or max(counts)) for count in counts]
        total: dict[str, Array] = {}
        for one, share in zip(uploads, shares, strict=True):
            for name, change in one.changes.items():
                dense = change
                if isinstance(dense, FactoredDelta):
                    dense = dense.dense(self._subject.weights[name])
                part = self._rounded(share * dense.astype(np.float64), one.client, len(uploads))
                total[name] = total[name] + part if name in total else part
        return {name: (one / sum(shares)).astype(np.float32) for name, one in total.items()}

    def _rounded(self, values: Array, client: str, num_clients: int) -> Array:
        protection = self._specification.protection
        if protection is None:
            return values
        fixed_point = FixedPoint(protection.bits, protection.bound, num_clients)
        stream = client_generator(self._subject.client.seed, f"audit rounding {client}")
        flat = values.reshape(-1)
        _, received = fixed_point.encode(flat, stream.random(len(flat)))
        return received.reshape(values.shape)
