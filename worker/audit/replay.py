"""What a client would send, and what the coordinator would see of it: as rounds do, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import BaseModel

from shared.arrays import Array
from shared.federation.hyperparameters import HypernetworkPlan
from shared.federation.plans import TrainingPlan, plan_of
from shared.secure_sum.fixed_point import FixedPoint
from shared.secure_sum.layout import SumLayout
from shared.secure_sum.masks import RingVector
from shared.tensors.encodings import encoding_for
from shared.tensors.factored_encoding import Delta
from shared.tensors.low_rank import FactoredDelta
from worker.attacks.observation import Observation
from worker.audit.subject import Subject, with_small_clients
from worker.data.client_data import Examples
from worker.methods import build_method
from worker.methods.interface import Participant, SiteResources, TrainingResult
from worker.methods.local_round.random_streams import client_generator
from worker.noise import noise_key
from worker.rounds.flat_changes import split
from worker.rounds.private_release import PrivateRelease

_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Upload:
    """One client's update, before it is summed.

    Attributes:
        changes: as the coordinator of a federation without secure sums decodes them.
        result: of the round, without noise.
        examples: that were trained on.
        client: the client's name.
        num_examples: that it says.
    """

    changes: dict[str, Delta]
    result: TrainingResult
    examples: Examples
    client: str
    num_examples: int


class Replay:
    """Rounds of a subject's federation, with other plans where one is given."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._specification = subject.specification
        self._resources = SiteResources(allowed_imports=subject.allowed_imports)
        privacy = self._specification.training.privacy
        self._release = None if privacy is None else PrivateRelease(self._specification, privacy)

    def plan(self, *, epochs: int | None = None) -> TrainingPlan:
        """The federation's plan of this round, with another number of epochs.

        A learning rate that falls over the rounds is the round's own: an attacker knows it.
        """
        training = self._specification.training
        settings = dict(training.hyperparameters)
        known = plan_of(training.method) or BaseModel
        plan = known.model_validate(settings)
        if isinstance(plan, HypernetworkPlan) and settings.pop("decay_rounds", None) is not None:
            settings["learning_rate"] = plan.learning_rate_in(self._subject.round_number)
        if epochs is not None:
            settings["epochs"] = epochs
        return training.model_copy(update={"hyperparameters": settings})

    def of_clients_with(self, num_examples: int | None) -> Replay:
        """Rounds of a federation whose clients have so few examples; these rounds for None."""
        if num_examples is None:
            return self
        return Replay(with_small_clients(self._subject, num_examples))

    def upload(self, client: Participant, plan: TrainingPlan, examples: Examples) -> Upload:
        """A client's update of one round on some examples.

        Raises:
            WorkerError: the method refuses such a round.
        """
        subject, parameters = self._subject, self._specification.parameters
        method = build_method(plan, _CPU, self._resources)
        member = replace(client, data=replace(client.data, train=examples))
        (result,) = method.train([member], subject.weights, subject.round_number, lambda: False)
        deltas, said = result.deltas, result.num_examples
        if self._release is not None and self._specification.protection is None:
            said = self._release.said_examples(result)
            deltas = self._release.alone(self._key(client.name, examples), result, subject.weights)
        encoding = encoding_for(self._specification.encoding)
        wire = encoding.encode(deltas, {}, subject.weights, parameters).wire
        changes = dict(encoding.decode(wire, parameters))
        return Upload(changes, result, examples, client.name, said)

    def uploads_of_cohort(
        self, plan: TrainingPlan, count: int, cohort: int, draw: int
    ) -> list[Upload]:
        """Of the client and some others, each of a round on ``count`` drawn examples of its own.

        Raises:
            WorkerError: the method refuses such a round.
        """
        members = [self._subject.client, *self._subject.others][:cohort]
        uploads = []
        for place, member in enumerate(members):
            train = member.data.train
            generator = torch.Generator().manual_seed(1000 * draw + place)
            chosen = torch.randperm(len(train), generator=generator)[:count]
            if count >= len(train):
                chosen = torch.arange(len(train))
            uploads.append(self.upload(member, plan, train.only(chosen)))
        return uploads

    def seen(self, uploads: Sequence[Upload], plan: TrainingPlan) -> Observation:
        """What the coordinator has: one update, or the mean of several that were summed.

        In a protected federation values are rounded as the secure sum does, cut at its bound, and
        have what noise the plan asks of so many clients.
        """
        if self._release is not None and self._specification.protection is not None:
            changes: Mapping[str, Delta] = self._noisy_mean(self._release, uploads)
        elif len(uploads) == 1 and self._specification.protection is None:
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
                dense = _dense(change, self._subject.weights[name]).astype(np.float64)
                part = self._rounded(share * dense, one.client, len(uploads))
                total[name] = total[name] + part if name in total else part
        return {name: (one / sum(shares)).astype(np.float32) for name, one in total.items()}

    def _noisy_mean(self, release: PrivateRelease, uploads: Sequence[Upload]) -> dict[str, Array]:
        specification, subject = self._specification, self._subject
        policy = specification.round_policy
        layout = SumLayout.of(
            specification, "train", policy.cohort_size or len(uploads), subject.round_number
        )
        total, share = layout.zeros(), 0.0
        for one in uploads:
            key = self._key(one.client, one.examples)
            count, values = release.part_of_sum(key, layout, one.result, subject.weights)
            total.add(RingVector(layout.zeros().counts, values, layout.fixed_point.bits))
            share += count / (policy.max_examples_weight or 1)
        mean = layout.fixed_point.decode(total.values) / share
        return dict(split(mean, specification.parameters))

    def _key(self, client: str, examples: Examples) -> bytes:
        """Of noise that is never sent: another for each client, round and choice of examples."""
        number, labels = str(self._subject.round_number), examples.labels.tolist()
        return noise_key(self._subject.client.seed, "audit", client, number, str(labels))

    def _rounded(self, values: Array, client: str, num_clients: int) -> Array:
        protection = self._specification.protection
        if protection is None:
            return values
        fixed_point = FixedPoint.for_clients(protection.bits, protection.bound, num_clients)
        stream = client_generator(self._subject.client.seed, f"audit rounding {client}")
        flat = values.reshape(-1)
        _, received = fixed_point.encode(flat, stream.random(len(flat)))
        return received.reshape(values.shape)


@dataclass(frozen=True, eq=False)
class PlayedRound:
    """A round of the client and all others.

    Attributes:
        uploads: of each, in this order.
        seen: by the coordinator.
        after: the subject after it.
    """

    uploads: Sequence[Upload]
    seen: Observation
    after: Subject


def play_round(subject: Subject) -> PlayedRound:
    """Plays one.

    Raises:
        WorkerError: the method refuses the round.
    """
    replay = Replay(subject)
    plan, members = replay.plan(), [subject.client, *subject.others]
    uploads = [replay.upload(member, plan, member.data.train) for member in members]
    seen = replay.seen(uploads, plan)
    weights = {
        name: array + _dense(seen.changes[name], array) if name in seen.changes else array
        for name, array in subject.weights.items()
    }
    client, *others = (
        replace(member, private=one.result.private)
        for member, one in zip(members, uploads, strict=True)
    )
    after = replace(
        subject,
        weights=weights,
        client=client,
        others=others,
        round_number=subject.round_number + 1,
    )
    return PlayedRound(uploads, seen, after)


def _dense(change: Delta, base: Array) -> Array:
    return change.dense(base) if isinstance(change, FactoredDelta) else change
