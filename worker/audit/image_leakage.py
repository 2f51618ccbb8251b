"""Whether images come out of a round: the attacks on pixels, each beside its baselines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from shared.federation.plans import TrainingPlan
from shared.federation.protection_plan import clients_needed
from worker.attacks import gradient_inversion, hypernetwork_inversion, unrolled_inversion
from worker.attacks.extractor_change import read_extractor_change
from worker.attacks.measures import bootstrap
from worker.attacks.observation import Observation
from worker.attacks.sum_unmixing import changes_in_sum
from worker.attacks.unrolled_inversion import LocalSteps, knows_steps
from worker.audit.attacked_round import Case, begin_row
from worker.audit.baselines import Comparison, PublicImages, Verdict, compare, judge
from worker.audit.effort import Effort
from worker.audit.replay import Replay, Upload
from worker.audit.subject import Subject, hides_examples, images_of
from worker.errors import WorkerError

Json = dict[str, Any]
CLOSED_FORM, IG, UNROLLED = "closed form and search", "IG, head sought", "unrolled steps"
_MOST_SCORED = 50
_MOST_FOR_IG = 8
_MOST_UNROLLED = 4
"""Rounds of a case whose steps are simulated: each takes half a minute and more."""
_SHOWN = 6
_STRENGTH = ("gains nothing", "gains", "recovered")


@dataclass(frozen=True, eq=False)
class Picture:
    """Rows of images, 0..1 (n, C, H, W): originals, reconstructions, blind guesses, nearest."""

    rows: Sequence[torch.Tensor]


class ImageAudit:
    """Attacks on the images of rounds of one subject."""

    def __init__(self, subject: Subject, replay: Replay, effort: Effort) -> None:
        self._subject, self._replay, self._effort = subject, replay, effort
        self._network, self._range = subject.network, subject.pixel_range
        self._prior = self._range.pixels(images_of(subject.prior))
        self._public = PublicImages(
            self._range.pixels(images_of(subject.candidates)), subject.candidates.labels
        )

    def measure(self, case: Case, cohort: int) -> tuple[Json, Picture | None]:
        """The attacks on a case, with a cohort of so many clients; and what they look like."""
        started = time.perf_counter()
        subject = self._subject
        replay = self._replay.of_clients_with(case.images)
        plan = replay.plan(epochs=case.epochs)
        row = begin_row(subject, case, plan, cohort)
        count = row["images"]
        draws = num_draws(plan, case, count, cohort, self._effort)
        found: dict[str, list[Comparison]] = {}
        owners: list[list[str]] = []
        try:
            for draw in range(draws):
                uploads = replay.uploads_of_cohort(plan, count, cohort, draw)
                observation = replay.seen(uploads, plan)
                images, labels, names = self._scored(uploads, draw)
                owners.append(names)
                for name, candidates in self._attack(observation, uploads, draw).items():
                    comparison = compare(candidates, images, labels, self._public, draw)
                    found.setdefault(name, []).append(comparison)
                if draw == 0:
                    originals = images
        except WorkerError as refused:
            return row | {"refused": str(refused)}, None
        verdicts = {name: judge(each) for name, each in found.items()}
        strongest = max(verdicts, key=lambda name: _strength(verdicts[name]))
        row |= {
            "attacks": {name: asdict(verdict) for name, verdict in verdicts.items()},
            "strongest": strongest,
            "says": verdicts[strongest].says,
            "worst_client": _worst_client(found[strongest], owners),
            "images_sought": sum(map(len, owners)),
            "candidates": len(self._public.pixels),
            "seconds": round(time.perf_counter() - started, 1),
        }
        return row, _picture(originals, found[strongest][0])

    def _scored(
        self, uploads: Sequence[Upload], draw: int
    ) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Pixels, labels and owners of the images that are sought, or of some of them."""
        pixels = torch.cat([self._range.pixels(images_of(one.examples)) for one in uploads])
        labels = torch.cat([one.examples.labels for one in uploads])
        names = [one.client for one in uploads for _ in range(len(one.examples))]
        generator = torch.Generator().manual_seed(draw)
        chosen = torch.randperm(len(pixels), generator=generator)[:_MOST_SCORED]
        return pixels[chosen], labels[chosen], [names[place] for place in chosen]

    def _attack(
        self, observation: Observation, uploads: Sequence[Upload], draw: int
    ) -> dict[str, torch.Tensor]:
        """Candidates (k, C, H, W) by attack."""
        iterations = self._effort.iterations
        total = sum(len(one.examples) for one in uploads)
        change = read_extractor_change(observation)
        parts = changes_in_sum(observation, len(uploads), draw) if len(uploads) > 1 else []
        per_client = max(1, total // len(uploads))
        sought = [(change, total), *((part, per_client) for part in parts)]
        found = {
            CLOSED_FORM: torch.cat(
                [
                    hypernetwork_inversion.invert(
                        self._network,
                        one,
                        count,
                        self._range,
                        self._prior,
                        iterations=iterations,
                        seed=draw,
                    )
                    for one, count in sought
                ]
            )
        }
        if total <= _MOST_FOR_IG:
            labels = torch.cat([one.examples.labels for one in uploads])
            found[IG] = gradient_inversion.invert(
                self._network,
                change,
                labels,
                self._range,
                iterations=iterations,
                fits_head=change.head is None,
                seed=draw,
            )
        if len(uploads) == 1 and is_unrolled(observation.plan, total, self._effort):
            steps = LocalSteps.of(observation.plan)
            found[UNROLLED] = unrolled_inversion.invert(
                self._network,
                read_extractor_change(observation.without_decay(steps.count(total))),
                total,
                self._range,
                self._prior,
                steps,
                iterations=iterations,
                seed=draw,
            )
        return found


def num_draws(plan: TrainingPlan, case: Case, count: int, cohort: int, effort: Effort) -> int:
    """Rounds of a case with ``count`` images of each client that are attacked."""
    if case.is_configured:
        return 1
    draws = max(1, -(-effort.images // (count * cohort)))
    is_slow = cohort == 1 and is_unrolled(plan, count, effort)
    return min(draws, _MOST_UNROLLED) if is_slow else draws


def is_unrolled(plan: TrainingPlan, num_examples: int, effort: Effort) -> bool:
    """Whether the audit simulates the steps of a client's round on so many examples.

    A round of one step has nothing to unroll, as with differential privacy for examples.
    """
    if hides_examples(plan) or not knows_steps(plan):
        return False
    steps = LocalSteps.of(plan).count(num_examples)
    return steps > 1 and steps * num_examples <= effort.unrolled


def smallest_cohort(subject: Subject) -> int:
    """Clients whose updates the coordinator sees as one: 1 in a federation without protection."""
    specification = subject.specification
    if specification.protection is None:
        return 1
    policy = specification.round_policy
    needed = clients_needed(policy.cohort_size or 0, policy.minimum_updates)
    return min(max(needed, subject.policy.minimum_cohort), 1 + len(subject.others))


def _strength(verdict: Verdict) -> tuple[int, float]:
    return _STRENGTH.index(verdict.says), verdict.gain.mean


def _worst_client(comparisons: Sequence[Comparison], owners: Sequence[Sequence[str]]) -> Json:
    """The client whose images came out best, by its mean gain in dB over the class mean."""
    gains: dict[str, list[float]] = {}
    for comparison, names in zip(comparisons, owners, strict=True):
        differences = comparison.attack - comparison.blind["class mean"]
        for name, gain in zip(names, differences, strict=True):
            gains.setdefault(name, []).append(float(gain))
    means: Mapping[str, float] = {name: float(np.mean(each)) for name, each in gains.items()}
    worst = max(means, key=lambda name: means[name])
    return {"client": worst, "gain": asdict(bootstrap(np.array(gains[worst])))}


def _picture(originals: torch.Tensor, comparison: Comparison) -> Picture:
    # Those that came out best: a report must not hide them.
    order = np.argsort(-comparison.attack)[:_SHOWN].copy()
    rows = (originals, comparison.best, comparison.guess, comparison.nearest)
    return Picture([row[order] for row in rows])
