"""What is attacked is what would be sent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from shared.federation.privacy_plan import PrivacyPlan
from shared.federation.sharing import OUTPUT_BIAS
from shared.secure_sum.fixed_point import FixedPoint
from shared.tensors.low_rank import FactoredDelta
from tests.support.audited import small_subject
from worker.attacks import gradient_inversion
from worker.attacks.extractor_change import read_extractor_change
from worker.attacks.measures import psnr
from worker.audit.replay import Replay
from worker.audit.subject import images_of
from worker.methods.hypernetwork.weights import OUTPUT_WEIGHT
from worker.site.policy import steps_of_round


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
    step = FixedPoint.for_clients(20, 0.5, 4).step
    assert step < 1e-5, "as fine as 20 bits are for four clients"
    assert 0 < difference <= 4 * step / (sum(counts) / 200)


@pytest.mark.parametrize("protected", [False, True])
def test_with_noise_it_is_the_federations_that_is_seen(*, protected: bool) -> None:
    privacy = PrivacyPlan(rounds=3, noise_multiplier=20.0)
    subject = small_subject(privacy=privacy, protected=protected)
    replay, plan = Replay(subject), Replay(subject).plan()
    members = [subject.client, *subject.others] if protected else [subject.client]
    uploads = [replay.upload(one, plan, one.data.train) for one in members]
    weights = [min(one.num_examples, 200) for one in uploads]
    clear = np.average([one.result.deltas[OUTPUT_BIAS] for one in uploads], 0, weights)
    seen = replay.seen(uploads, plan).changes[OUTPUT_BIAS]
    assert isinstance(seen, np.ndarray)
    sensitivity, honest, total = privacy.sensitivity(weights[0], 1), 1.0, 1.0
    if protected:
        # Of four all are needed until the end, one of whom may help the coordinator.
        sensitivity, honest, total = privacy.sensitivity(200, 1), 4 / 3, sum(weights) / 200
    expected = 20.0 * sensitivity * honest**0.5 / total
    assert float(np.std(seen - clear)) == pytest.approx(expected, rel=0.1)


def test_where_noise_is_nothing_the_image_of_a_step_is_found() -> None:
    """What an audit says of noise means something: without it, this attack succeeds."""
    subject = small_subject(privacy=PrivacyPlan(rounds=3, noise_multiplier=1e-6))
    replay, plan = Replay(subject), Replay(subject).plan()
    upload = replay.upload(subject.client, plan, subject.client.data.train.only(torch.arange(1)))
    change = read_extractor_change(replay.seen([upload], plan))
    assert change.head is not None
    found = gradient_inversion.invert(
        subject.network,
        change,
        upload.examples.labels,
        subject.pixel_range,
        iterations=300,
        fits_head=change.head is None,
    )
    original = subject.pixel_range.pixels(images_of(upload.examples))
    assert float(psnr(found, original)) >= 25.0


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


def test_a_sum_of_small_clients_is_scaled_by_what_they_have() -> None:
    subject = small_subject(protected=True)
    policies = [
        Replay(subject).of_clients_with(count)._specification.round_policy
        for count in (None, 5, 500)
    ]
    assert [one.max_examples_weight for one in policies] == [200, 5, 200]


@pytest.mark.parametrize("settings", [{}, {"decay_rounds": 4}])
def test_what_decay_took_is_known_exactly(settings: dict[str, Any]) -> None:
    subject = replace(small_subject(protected=True, clip_norm=1e-9, **settings), round_number=4)
    replay = Replay(subject)
    plan = replay.plan()
    steps = steps_of_round(plan, len(subject.client.data.train))
    assert steps is not None
    upload = replay.upload(subject.client, plan, subject.client.data.train)
    observation = replace(replay.seen([upload], plan), changes=upload.changes)
    left = observation.without_decay(steps).learned(OUTPUT_BIAS)
    assert np.abs(left).max() < 0.01 * np.abs(upload.changes[OUTPUT_BIAS]).max()
