"""What is attacked is what would be sent."""

from __future__ import annotations

import numpy as np
import torch

from shared.federation.sharing import OUTPUT_BIAS
from shared.secure_sum.fixed_point import FixedPoint
from shared.tensors.low_rank import FactoredDelta
from tests.support.audited import small_subject
from worker.audit.replay import Replay
from worker.methods.hypernetwork.weights import OUTPUT_WEIGHT


def test_of_a_plain_federation_the_coordinator_sees_the_factors() -> None:
    subject = small_subject()
    replay = Replay(subject)
    upload = replay.upload(subject.client, replay.plan(), subject.client.data.train)
    seen = replay.seen([upload], replay.plan())
    assert isinstance(seen.changes[OUTPUT_WEIGHT], FactoredDelta)
    assert seen.num_examples == len(subject.client.data.train)


def test_a_protected_one_shows_the_weighted_mean_rounded_as_it_is_sent() -> None:
    subject = small_subject(protected=True)
    replay, plan = Replay(subject), Replay(subject).plan()
    members = [subject.client, *subject.others]
    counts = [40, 60, 80, 100]
    uploads = [
        replay.upload(member, plan, member.data.train.only(torch.arange(count)))
        for member, count in zip(members, counts, strict=True)
    ]
    seen = replay.seen(uploads, plan)
    assert seen.changes.keys() == {OUTPUT_BIAS}
    expected = np.average([one.changes[OUTPUT_BIAS] for one in uploads], axis=0, weights=counts)
    difference = np.abs(seen.changes[OUTPUT_BIAS] - expected).max()
    # Each of the four is off by a unit at most, and the mean divides by the shares of 200.
    step = FixedPoint(20, 0.5, 4).step
    assert 0 < difference <= 4 * step / (sum(counts) / 200)


def test_the_clients_state_and_data_stay_as_they_are() -> None:
    subject = small_subject()
    before = {name: tensor.clone() for name, tensor in subject.client.private.items()}
    count = len(subject.client.data.train)
    replay = Replay(subject)
    replay.upload(
        subject.client, replay.plan(epochs=1), subject.client.data.train.only(torch.arange(3))
    )
    assert len(subject.client.data.train) == count
    assert all(torch.equal(one, before[name]) for name, one in subject.client.private.items())
