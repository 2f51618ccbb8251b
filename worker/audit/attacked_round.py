"""A round to attack: on how many images, in how many steps, and whether the site would make it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.federation.plans import TrainingPlan
from worker.audit.subject import Subject
from worker.site.policy import steps_of_round
from worker.site_policy import SitePolicy

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A round to attack: each client has so many images, and passes over them so often.

    None is what the federation has configured.
    """

    images: int | None
    epochs: int | None

    @property
    def is_configured(self) -> bool:
        """Whether it is the round as the site would make it."""
        return self.images is None and self.epochs is None


def begin_row(subject: Subject, case: Case, plan: TrainingPlan, cohort: int) -> Json:
    """What a row of the report says of a round before anything is measured.

    ``images`` and ``steps`` are those of each client.
    """
    available = len(subject.client.data.train)
    count = available if case.images is None else min(case.images, available)
    steps = steps_of_round(plan, count) or 1
    return {
        "images": count,
        "epochs": plan.hyperparameters["epochs"],
        "steps": steps,
        "cohort": cohort,
        "is_configured": case.is_configured,
        "epsilon": None if plan.privacy is None else plan.privacy.epsilon,
        "policy": refusal(subject.policy, count, steps),
    }


def refusal(policy: SitePolicy, num_examples: int, steps: int) -> str | None:
    """The line of the site's policy that refuses such a round; None where it takes part."""
    if num_examples < policy.minimum_examples:
        return f"minimum_examples = {policy.minimum_examples}"
    if steps < policy.minimum_steps:
        return f"minimum_steps = {policy.minimum_steps}"
    return None
