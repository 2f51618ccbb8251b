"""Which rounds a client has trained, for policies that bound them: written before training."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict

from shared.rest.schema import Count, Digest, PositiveCount, Task
from worker.site import json_file

FILE_NAME = "rounds.json"
DAY = timedelta(days=1)


class TrainedRound(BaseModel):
    """A round, by the weights that it starts from: a restored coordinator counts from there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    round_number: PositiveCount
    base_digest: Digest
    at: AwareDatetime


class RoundLedger(BaseModel):
    """A client's rounds: how many in all, those of the last day, and with whom it was summed.

    ``cohorts`` are digests of members' names; they are kept where a policy bounds them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_rounds: Count = 0
    recent: tuple[TrainedRound, ...] = ()
    cohorts: tuple[Digest, ...] = ()

    def has(self, task: Task) -> bool:
        """Whether the round is counted: a worker that was killed trains it again."""
        return any(
            (one.round_number, one.base_digest) == (task.round_number, task.base_digest)
            for one in self.recent
        )

    def num_in_day_before(self, now: datetime) -> int:
        """Rounds of the last 24 hours; those that a clock set back has put into the future, too."""
        return sum(one.at > now - DAY for one in self.recent)

    def with_round(self, task: Task, now: datetime) -> RoundLedger:
        """The same with one round more."""
        recent = [one for one in self.recent if one.at > now - DAY]
        added = TrainedRound(round_number=task.round_number, base_digest=task.base_digest, at=now)
        return self.model_copy(
            update={"num_rounds": self.num_rounds + 1, "recent": (*recent, added)}
        )

    def with_cohort(self, cohort: str) -> RoundLedger:
        """The same with one cohort more."""
        return self.model_copy(update={"cohorts": (*self.cohorts, cohort)})


def load_ledger(folder: Path) -> RoundLedger:
    """What ``folder`` has counted.

    Raises:
        PrivateStateError: the file cannot be used; it is left as it is.
    """
    return json_file.load(folder / FILE_NAME, RoundLedger) or RoundLedger()


def save_ledger(folder: Path, ledger: RoundLedger) -> None:
    """Replaces what ``folder`` has counted."""
    json_file.save(folder / FILE_NAME, ledger)
