"""Whether an update tells who was in a round, and how many examples of each class a client has."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from shared.federation.plans import TrainingPlan
from worker.attacks.extractor_change import ExtractorChange, read_extractor_change
from worker.attacks.label_histogram import (
    ClassMovement,
    chance_of,
    infer_histogram,
    total_variation_distance,
)
from worker.attacks.measures import roc
from worker.attacks.membership import MembershipTest, calibrated
from worker.audit.attacked_round import Case, begin_row
from worker.audit.effort import Effort
from worker.audit.replay import Replay
from worker.audit.subject import Subject, images_of
from worker.data.client_data import Examples
from worker.errors import WorkerError
from worker.methods import build_method
from worker.methods.interface import SiteResources

Json = dict[str, Any]
Float64 = npt.NDArray[np.float64]
_MOST_SCORED = 300
_CONCENTRATION = 0.5
_DRAWS = 200
_CPU = torch.device("cpu")


class InferenceAudit:
    """Membership and labels of rounds of one subject."""

    def __init__(self, subject: Subject, replay: Replay, effort: Effort) -> None:
        self._subject, self._replay, self._effort = subject, replay, effort
        self._network = subject.network
        # Shadow clients train on one half of the prior; the other is what updates are judged by.
        half = len(subject.prior) // 2
        self._shadow_images = subject.prior.only(torch.arange(half))
        self._judging = subject.prior.only(torch.arange(half, len(subject.prior)))

    def measure(self, case: Case, cohort: int) -> Json:
        """Membership and the label histogram of a case, with a cohort of so many clients."""
        started = time.perf_counter()
        subject = self._subject
        replay = self._replay.of_clients_with(case.images)
        plan = replay.plan(epochs=case.epochs)
        train = subject.client.data.train
        row = begin_row(subject, case, plan, cohort)
        count = row["images"]
        try:
            own = train.only(_chosen(len(train), count))
            change = self._change(replay, plan, own, cohort)
            shadows = self._shadows(replay, plan, count, cohort)
        except WorkerError as refused:
            return row | {"refused": str(refused)}
        test = MembershipTest(self._network, change.before, images_of(self._judging))
        row |= self._membership(test, change, [shadow for shadow, _ in shadows], own)
        row |= self._labels(test, change, shadows, own)
        return row | {"seconds": round(time.perf_counter() - started, 1)}

    def _change(
        self, replay: Replay, plan: TrainingPlan, own: Examples, cohort: int
    ) -> ExtractorChange:
        uploads = [replay.upload(self._subject.client, plan, own)]
        for other in self._subject.others[: cohort - 1]:
            train = other.data.train
            part = train.only(_chosen(len(train), min(len(own), len(train))))
            uploads.append(replay.upload(other, plan, part))
        return read_extractor_change(replay.seen(uploads, plan))

    def _shadows(
        self, replay: Replay, plan: TrainingPlan, count: int, cohort: int
    ) -> list[tuple[ExtractorChange, Float64]]:
        """Updates of clients that the attacker trains, and the first one's histogram of each."""
        subject = self._subject
        resources = SiteResources(allowed_imports=subject.allowed_imports)
        method = build_method(plan, _CPU, resources)
        generator = np.random.default_rng(0)
        found = []
        for shadow in range(max(4, self._effort.shadows // cohort)):
            uploads = []
            for member in range(cohort):
                seed = 1_000_003 * (shadow + 1) + member
                examples = self._mixture(generator, count)
                client = replace(
                    subject.client,
                    name=f"shadow {member}",
                    private=method.initial_private(seed),
                    seed=seed,
                )
                uploads.append(replay.upload(client, plan, examples))
            change = read_extractor_change(replay.seen(uploads, plan))
            found.append((change, self._histogram(uploads[0].examples)))
        return found

    def _mixture(self, generator: np.random.Generator, count: int) -> Examples:
        """Public images of classes in drawn shares, again where a class has too few."""
        labels = self._shadow_images.labels.numpy()
        shares = generator.dirichlet(np.full(self._network.num_classes, _CONCENTRATION))
        weights = shares[labels] + 1e-9
        places = generator.choice(len(labels), count, p=weights / weights.sum())
        return self._shadow_images.only(torch.from_numpy(places))

    def _membership(
        self,
        test: MembershipTest,
        change: ExtractorChange,
        shadows: list[ExtractorChange],
        own: Examples,
    ) -> Json:
        groups = [images_of(one) for one in _alike(own, self._subject.candidates)]
        plain = [test.scores(change, images) for images in groups]
        compared = [
            calibrated(scores, [test.scores(shadow, images) for shadow in shadows])
            for scores, images in zip(plain, groups, strict=True)
        ]
        # The attacker knows from its shadows which of the two is better; here the better counts.
        members, others = max((plain, compared), key=lambda pair: roc(*pair)[0])
        area, rate = roc(members, others)
        low, high = _area_interval(members, others)
        return {
            "auc": area,
            "auc_low": low,
            "auc_high": high,
            "true_positives_at_1_percent": rate,
            "members_scored": len(members),
        }

    def _labels(
        self,
        test: MembershipTest,
        change: ExtractorChange,
        shadows: list[tuple[ExtractorChange, Float64]],
        own: Examples,
    ) -> Json:
        inferred = change.class_shares
        if inferred is None:
            movement = ClassMovement(
                self._network, test, images_of(self._judging), self._judging.labels
            )
            inferred = infer_histogram(
                movement.statistics(change),
                [movement.statistics(shadow) for shadow, _ in shadows],
                [histogram for _, histogram in shadows],
            )
        truth = self._histogram(own)
        uniform = np.full(len(truth), 1 / len(truth))
        public = self._histogram(self._subject.prior)
        return {
            "label_distance": total_variation_distance(inferred, truth),
            "blind_label_distance": min(
                total_variation_distance(uniform, truth), total_variation_distance(public, truth)
            ),
            "label_chance": chance_of(inferred, truth),
            "labels": [round(float(one), 4) for one in truth],
            "inferred_labels": [round(float(one), 4) for one in inferred],
        }

    def _histogram(self, examples: Examples) -> Float64:
        counts = np.bincount(examples.labels.numpy(), minlength=self._network.num_classes)
        shares: Float64 = counts / counts.sum()
        return shares


def _alike(own: Examples, others: Examples) -> tuple[Examples, Examples]:
    """As many of both in each class: a client's classes alone must not tell its images."""
    chosen: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    classes = sorted(set(own.labels.tolist()))
    most = _MOST_SCORED // len(classes)
    for label in classes:
        places = [(one.labels == label).nonzero()[:, 0] for one in (own, others)]
        count = min(most, *map(len, places))
        for kept, place in zip(chosen, places, strict=True):
            kept.append(place[_chosen(len(place), count)])
    return own.only(torch.cat(chosen[0])), others.only(torch.cat(chosen[1]))


def _chosen(available: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(available, generator=generator)[:count]


def _area_interval(members: Float64, others: Float64) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    areas = [
        roc(generator.choice(members, len(members)), generator.choice(others, len(others)))[0]
        for _ in range(_DRAWS)
    ]
    low, high = np.quantile(areas, [0.025, 0.975])
    return float(low), float(high)
