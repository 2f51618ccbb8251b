"""The measurements of an audit, one after the other; each is kept as soon as it is made."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shared.arrays import digest_bytes
from worker.attacks import gradient_inversion
from worker.attacks.extractor_change import read_extractor_change
from worker.audit.attacked_round import Case
from worker.audit.chosen_weights import measure_chosen
from worker.audit.cohort_leakage import measure_cohorts
from worker.audit.effort import Effort
from worker.audit.image_leakage import ImageAudit, is_unrolled, num_draws, smallest_cohort
from worker.audit.inference import InferenceAudit
from worker.audit.pictures import draw_grid
from worker.audit.replay import Replay
from worker.audit.rounds_leakage import measure_rounds
from worker.audit.subject import Subject, hides_examples, with_epsilon
from worker.files import write_atomically
from worker.methods.hyperfl import HyperFL
from worker.methods.registry import METHODS
from worker.site.policy import steps_of_round

Json = dict[str, Any]
KEPT = "measured.json"
_FORMAT = 3
"""Of what is kept; another release may measure more."""
_TRIED_ITERATIONS = 10
_FEW = 50
_TRAPS_COST = 5.0
"""Of a search from a layer's traps, as :data:`_SEARCH_COST`."""
_SEARCH_COST = 0.7
"""Of a search from the closed form, in searches by IG over as many images."""
_UNROLLED_COST = 2.5
"""Of a search through unrolled steps, as :data:`_SEARCH_COST`, by step."""


@dataclass(frozen=True)
class Measurement:
    """One part of an audit.

    Attributes:
        name: unique, and a file's name.
        says: what is measured, for people.
        seconds: that it is expected to take.
        make: makes it.
    """

    name: str
    says: str
    seconds: float
    make: Callable[[], Json]


def plan_measurements(subject: Subject, effort: Effort, folder: Path) -> list[Measurement]:
    """What an audit of this size measures, with the time it will take, tried on this machine.

    Pictures are written into ``folder`` as they are made.

    Raises:
        WorkerError: the subject cannot be audited.
    """
    replay = Replay(subject)
    images = ImageAudit(subject, replay, effort)
    inference = InferenceAudit(subject, replay, effort)
    cohort = smallest_cohort(subject)
    round_seconds, iteration_seconds = _try(subject, replay)
    whole_steps = steps_of_round(replay.plan(), len(subject.client.data.train)) or 1
    found = []
    for case in _cases(subject, effort):
        count = case.images or len(subject.client.data.train)
        plan = replay.plan(epochs=case.epochs)
        steps = steps_of_round(plan, count) or 1
        draws = num_draws(plan, case, count, cohort, effort)
        searches = 1 + _SEARCH_COST
        if cohort == 1 and is_unrolled(plan, count, effort):
            searches += _SEARCH_COST + _UNROLLED_COST * steps
        searched = effort.iterations * iteration_seconds * searches
        seconds = draws * (cohort * round_seconds * steps / whole_steps + searched)
        name = "images-configured" if case.is_configured else f"images-{count}-epochs-{case.epochs}"
        found.append(
            Measurement(
                name,
                f"images: {count} in {steps} steps",
                seconds,
                partial(_with_picture, images, case, cohort, folder, name),
            )
        )
    for epsilon in effort.epsilons if subject.privacy is not None else ():
        seconds = cohort * round_seconds / whole_steps
        seconds += effort.iterations * iteration_seconds * (1 + _SEARCH_COST)
        found.append(
            Measurement(
                f"images-1-epsilon-{epsilon:g}",
                f"images: 1 in 1 step, ε {epsilon:g}",
                seconds,
                partial(_with_epsilon, subject, effort, epsilon, cohort),
            )
        )
    for case in (Case(_FEW, 1), Case(None, None)):
        count = min(case.images or 10**9, len(subject.client.data.train))
        steps = steps_of_round(replay.plan(epochs=case.epochs), count) or 1
        seconds = (1 + effort.shadows) * round_seconds * steps / whole_steps
        name = "inference-configured" if case.is_configured else f"inference-{count}"
        found.append(
            Measurement(
                name,
                f"membership and labels: {count} in {steps} steps",
                seconds,
                partial(inference.measure, case, cohort),
            )
        )
    is_hyperfl = issubclass(METHODS[subject.specification.training.method], HyperFL)
    if is_hyperfl and subject.network.linear is not None:
        for case in (*(Case(*one) for one in effort.chosen), Case(None, None)):
            count = min(case.images or 10**9, len(subject.client.data.train))
            steps = steps_of_round(replay.plan(epochs=case.epochs), count) or 1
            seconds = cohort * round_seconds * steps / whole_steps
            seconds += effort.iterations * iteration_seconds * _TRAPS_COST
            name = "chosen-configured" if case.is_configured else f"chosen-{count}"
            found.append(
                Measurement(
                    name,
                    f"weights of the coordinator's choice: {count} in {steps} steps",
                    seconds,
                    partial(_chosen, subject, effort, case, cohort, folder, name),
                )
            )
    # Noise for examples leaves one column, which does not come apart; for clients it is not tried.
    if subject.privacy is None and is_hyperfl:
        members = min(max(effort.cohorts), 1 + len(subject.others))
        found.append(
            Measurement(
                "cohorts",
                f"sums of up to {members} clients",
                (members + sum(effort.cohorts)) * round_seconds
                + 2.0 * effort.draws * len(effort.cohorts),
                lambda: {"rows": measure_cohorts(subject, replay, effort)},
            )
        )
    if effort.rounds and subject.others and subject.specification.protection is not None:
        members = 1 + len(subject.others)
        found.append(
            Measurement(
                "rounds",
                f"sums of {effort.rounds} rounds put together",
                1.5 * effort.rounds * members * round_seconds,
                lambda: {"rows": measure_rounds(subject, effort.rounds)},
            )
        )
    return found


def _cases(subject: Subject, effort: Effort) -> list[Case]:
    """Rounds to attack, and the one that is configured; where noise hides examples, of one step."""
    tried = [Case(*one) for one in effort.cases]
    if hides_examples(subject.specification.training):
        tried = [case for case in tried if case.epochs == 1]
    return [*tried, Case(None, None)]


def _with_epsilon(subject: Subject, effort: Effort, epsilon: float, cohort: int) -> Json:
    other = with_epsilon(subject, epsilon)
    row, _ = ImageAudit(other, Replay(other), effort).measure(Case(1, 1), cohort)
    return row


def _with_picture(images: ImageAudit, case: Case, cohort: int, folder: Path, name: str) -> Json:
    row, picture = images.measure(case, cohort)
    if picture is not None:
        draw_grid(picture, folder / f"{name}.png")
        row["picture"] = f"{name}.png"
    return row


def _chosen(
    subject: Subject, effort: Effort, case: Case, cohort: int, folder: Path, name: str
) -> Json:
    row, picture = measure_chosen(subject, effort, case, cohort)
    if picture is not None:
        draw_grid(picture, folder / f"{name}.png")
        row["picture"] = f"{name}.png"
    return row


def _try(subject: Subject, replay: Replay) -> tuple[float, float]:
    """Seconds of a client's round as configured, and of an iteration of IG over five images."""
    plan = replay.plan()
    for _ in range(2):
        started = time.perf_counter()
        upload = replay.upload(subject.client, plan, subject.client.data.train)
        round_seconds = time.perf_counter() - started
    change = read_extractor_change(replay.seen([upload], plan))
    labels = subject.client.data.train.labels[:5]
    network, pixel_range = subject.network, subject.pixel_range
    # The first iterations are slow, and no measure of the others.
    for iterations in (1, _TRIED_ITERATIONS):
        started = time.perf_counter()
        gradient_inversion.invert(
            network, change, labels, pixel_range, iterations=iterations, fits_head=True
        )
        seconds = (time.perf_counter() - started) / iterations
    return round_seconds, seconds


class Kept:
    """Measurements in a file: those of another subject or size are begun anew."""

    def __init__(self, folder: Path, subject: Subject, effort: Effort) -> None:
        self._file = folder / KEPT
        self._of = digest_bytes(f"{_FORMAT} {subject.digest} {effort}".encode())
        self._rows: dict[str, Json] = {}
        if self._file.exists():
            document = json.loads(self._file.read_text())
            if document.get("of") == self._of:
                self._rows = document["measured"]

    def get(self, one: Measurement) -> Json:
        """A measurement, made where it is not there yet."""
        if one.name not in self._rows:
            # As it is read again: a tuple is a list then.
            self._rows[one.name] = json.loads(json.dumps(one.make()))
            document = {"of": self._of, "measured": self._rows}
            write_atomically(self._file, json.dumps(document, indent=1).encode())
        return self._rows[one.name]

    def has(self, one: Measurement) -> bool:
        """Whether it is there."""
        return one.name in self._rows
