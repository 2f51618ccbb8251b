"""Results beside the paper's figures: means and standard deviations over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from shared.federation.plans import spreads_privacy_budget
from worker.experiment.grid import Run
from worker.experiment.paper import PaperTable

Json = dict[str, Any]


class Spread(BaseModel):
    """A mean over seeds, and the sample standard deviation; None for a single seed."""

    model_config = ConfigDict(frozen=True)

    mean: float
    deviation: float | None

    def __str__(self) -> str:
        if self.deviation is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ± {self.deviation:.2f}"


class RoundAccuracy(BaseModel):
    """Accuracy in percent in one round: mean over the round's clients, then over seeds."""

    model_config = ConfigDict(frozen=True)

    before: Spread | None
    """Of the round's weights with each client's private tensors, before local training."""
    after: Spread | None
    """After local training."""
    final: Spread | None
    """Of the weights that the round made, with each client's private tensors: before the next
    round's local training, of that round's clients, or in the end, of all."""


class Cell(BaseModel):
    """Runs that differ only in their seed."""

    model_config = ConfigDict(frozen=True)

    run: Run
    seeds: tuple[int, ...]
    """Of the finished runs."""
    num_seeds_planned: int
    final: Spread
    """Accuracy in percent of the final weights with each client's private tensors."""
    by_round: dict[int, RoundAccuracy]
    """The last round, and those that were asked for and can be told."""
    seconds_per_round: Spread
    bytes_up_per_client_round: float
    bytes_down_per_client_round: float
    privacy: dict[str, float] | None
    """``epsilon``, ``delta``, ``noise_multiplier`` and ``sample_rate``, means over seeds; None
    where a result has none."""
    paper_accuracy: float | None
    paper_rounds: int | None
    paper_seconds: float | None


def summarise(
    runs: Iterable[Run],
    results: Mapping[str, Json],
    paper: PaperTable | None = None,
    checkpoints: Sequence[int] = (),
) -> list[Cell]:
    """One cell for each set of finished runs that differ only in their seed.

    Args:
        runs: of the experiment.
        results: by the run's key.
        paper: what to compare with.
        checkpoints: rounds to tell accuracies of. A run that is longer tells them only if its
            method trains a round in the same way however many follow; methods with a privacy
            budget do not, since they spread it over all rounds.
    """
    cells: dict[str, list[Run]] = {}
    for run in runs:
        cells.setdefault(run.cell, []).append(run)
    return [
        _summarise_cell(finished, len(members), results, paper, checkpoints)
        for members in cells.values()
        if (finished := [run for run in members if run.key in results])
    ]


def _summarise_cell(
    members: list[Run],
    num_planned: int,
    results: Mapping[str, Json],
    paper: PaperTable | None,
    checkpoints: Sequence[int],
) -> Cell:
    run = members[0]
    found = [results[member.key] for member in members]
    figure = None if paper is None else paper.find(run)
    wanted = {run.rounds}
    if not spreads_privacy_budget(run.method):
        wanted |= {number for number in checkpoints if number < run.rounds}
    return Cell(
        run=run,
        seeds=tuple(member.seed for member in members),
        num_seeds_planned=num_planned,
        final=_spread([result["accuracy_final_mean"] for result in found]),
        by_round={number: _accuracy_at(found, number) for number in sorted(wanted)},
        seconds_per_round=_spread(
            [statistics.fmean(result["seconds_per_round"]) for result in found]
        ),
        bytes_up_per_client_round=statistics.fmean(r["bytes_up_per_client_round"] for r in found),
        bytes_down_per_client_round=statistics.fmean(
            r["bytes_down_per_client_round"] for r in found
        ),
        privacy=_privacy(found),
        paper_accuracy=None if figure is None else figure.accuracy,
        paper_rounds=None if paper is None else paper.rounds,
        paper_seconds=None if figure is None else figure.seconds,
    )


def _accuracy_at(found: list[Json], number: int) -> RoundAccuracy:
    details = [result["rounds_detail"] for result in found]
    this = [rounds[number - 1] for rounds in details]
    following = [
        rounds[number]
        if number < len(rounds)
        else {"accuracy_before": result["accuracy_final_mean"]}
        for rounds, result in zip(details, found, strict=True)
    ]
    before, after, final = (
        [round_[name] for round_ in rounds if name in round_]
        for name, rounds in (
            ("accuracy_before", this),
            ("accuracy_after", this),
            ("accuracy_before", following),
        )
    )
    return RoundAccuracy(
        before=_spread(before) if before else None,
        after=_spread(after) if after else None,
        final=_spread(final) if final else None,
    )


def _privacy(found: list[Json]) -> dict[str, float] | None:
    told = [result["privacy"] for result in found if "privacy" in result]
    if not told:
        return None
    return {name: statistics.fmean(one[name] for one in told) for name in told[0]}


def _spread(values: Sequence[float]) -> Spread:
    return Spread(
        mean=statistics.fmean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else None,
    )
