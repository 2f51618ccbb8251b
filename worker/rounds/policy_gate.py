"""Lets clients into a round only as far as their site's policy goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from shared.federation.plans import TrainingPlan
from shared.rest.declines import DeclineKind
from shared.rest.schema import TaskKind
from shared.secure_sum.messages import survivors_digest
from worker.errors import PolicyRefused
from worker.rounds.held_task import HeldTask
from worker.site.policy import shown_metrics, steps_of_round
from worker.site.round_ledger import RoundLedger
from worker.site_policy import SitePolicy

_BEFORE = "accuracy_before"


class PolicyGate:
    """What a policy says of single rounds; :mod:`worker.site.policy` judges the federation.

    ``clock`` gives the time with its zone.
    """

    def __init__(
        self,
        policy: SitePolicy,
        training: TrainingPlan,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._policy = policy
        self._training = training
        self._clock = clock

    @property
    def policy(self) -> SitePolicy:
        """The site's."""
        return self._policy

    def now(self) -> datetime:
        """The time by which days are counted."""
        return self._clock()

    def check(self, one: HeldTask) -> RoundLedger:
        """Whether a client may train in a round; what it has trained so far.

        Raises:
            PolicyRefused: it may not.
            PrivateStateError: what it has trained cannot be read.
        """
        policy, name = self._policy, one.client.name
        self._check_budget(one)
        steps = steps_of_round(self._training, len(one.client.data.train))
        if self._training.privacy is None and policy.minimum_steps > (steps or 1):
            raise PolicyRefused(
                f"policy.minimum_steps is {policy.minimum_steps}",
                f"client {name} makes {steps or 'an unknown number of'} steps in a round",
            )
        ledger = one.client.trained_rounds()
        if ledger.has(one.task):
            return ledger
        today = ledger.num_in_day_before(self._clock())
        if policy.rounds_per_day is not None and today >= policy.rounds_per_day:
            raise PolicyRefused(
                f"policy.rounds_per_day is {policy.rounds_per_day}",
                f"client {name} has trained {today} in the last 24 hours",
            )
        if policy.rounds_in_all is not None and ledger.num_rounds >= policy.rounds_in_all:
            raise PolicyRefused(
                f"policy.rounds_in_all is {policy.rounds_in_all}",
                f"client {name} has trained {ledger.num_rounds}",
            )
        return ledger

    def join_cohort(self, one: HeldTask, names: Sequence[str]) -> None:
        """Counts the cohort of a secure sum, before it is joined.

        Raises:
            PolicyRefused: it is one too many.
            PrivateStateError: those before cannot be read.
        """
        most = self._policy.maximum_cohorts
        if most is None:
            return
        ledger, cohort = one.client.trained_rounds(), survivors_digest(names)
        if cohort in ledger.cohorts:
            return
        if len(ledger.cohorts) >= most:
            raise PolicyRefused(
                f"policy.maximum_cohorts is {most}",
                f"this cohort is another, and client {one.client.name} has been in "
                f"{len(ledger.cohorts)}",
            )
        one.client.count_round(ledger.with_cohort(cohort))

    def _check_budget(self, one: HeldTask) -> None:
        """Whether noise is planned for the round: one update of each number, whatever is lost."""
        privacy, number = self._training.privacy, one.task.round_number
        if privacy is None:
            return
        if number > privacy.rounds:
            raise PolicyRefused(
                f"the privacy budget is of {privacy.rounds} rounds",
                f"round {number} would spend more of client {one.client.name}'s",
                DeclineKind.PRIVACY,
            )
        if number <= one.client.state.last_round:
            raise PolicyRefused(
                "the privacy budget is of one update a round",
                f"client {one.client.name} has made one of round {one.client.state.last_round}",
                DeclineKind.PRIVACY,
            )

    def admit(self, one: HeldTask) -> None:
        """Counts a round before it is trained, so that none is trained that is not counted.

        Raises:
            PolicyRefused, PrivateStateError: as :meth:`check`.
        """
        ledger = self.check(one)
        if not ledger.has(one.task):
            one.client.count_round(ledger.with_round(one.task, self._clock()))

    def check_result(self, one: HeldTask, metrics: Mapping[str, float]) -> None:
        """Looks at what a method measured, before anything of the round is kept or sent.

        Raises:
            PolicyRefused: the weights that the round began with are too bad for this client.
            PrivateStateError: its rounds so far cannot be read.
        """
        most, accuracy = self._policy.maximum_accuracy_drop, metrics.get(_BEFORE)
        if most is None or accuracy is None:
            return
        # Rounds of training alone: what is refused leaves no row, where an evaluation would.
        best = max(
            (
                row.metrics.get(_BEFORE, 0.0)
                for row in one.client.remembered()
                if row.kind is TaskKind.TRAIN
            ),
            default=0.0,
        )
        if best - accuracy > most:
            raise PolicyRefused(
                f"policy.maximum_accuracy_drop is {most}",
                f"the accuracy of client {one.client.name} is {accuracy:.3f} at these weights, "
                f"and was {best:.3f}",
            )

    def shown(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """What may leave of a method's numbers."""
        return shown_metrics(self._policy, metrics)
