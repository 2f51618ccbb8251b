"""Means over seeds beside the paper's figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.experiment_results import RESULTS, RUNS, result, run_of
from tests.support.processes import PROJECT
from worker.errors import ExperimentError
from worker.experiment.paper import Figure, PaperTable, load_paper_table
from worker.experiment.summary import RoundAccuracy, Spread, summarise

PAPER = PaperTable(
    rounds=200,
    figures=(
        Figure(method="local", dataset="digits", clients=20, accuracy=1.0),
        Figure(method="hyperfl", dataset="digits", clients=4, accuracy=88.28),
        Figure(method="local", dataset="digits", clients=4, seconds=37.0),
    ),
)


def test_a_cell_is_the_mean_over_its_seeds() -> None:
    hyperfl, local = summarise(RUNS, RESULTS, PAPER)
    assert hyperfl.seeds == (1, 2)
    assert hyperfl.final.mean == 92.0
    assert hyperfl.final.deviation == pytest.approx(8**0.5)
    assert hyperfl.seconds_per_round.mean == 2.0
    assert (hyperfl.paper_accuracy, hyperfl.paper_rounds) == (88.28, 200)
    assert (local.seeds, local.num_seeds_planned) == ((1,), 2)
    assert local.final == Spread(mean=80.0, deviation=None)
    assert (local.paper_accuracy, local.paper_seconds) == (None, 37.0)


def test_accuracies_of_a_round_are_before_and_after_its_local_training() -> None:
    hyperfl, local = summarise(RUNS, RESULTS, checkpoints=(1, 2, 9))
    assert hyperfl.by_round.keys() == {1, 2}, "nobody knows of round 9"
    assert hyperfl.by_round[1].before is not None
    assert (hyperfl.by_round[1].before.mean, str(hyperfl.by_round[1].after)) == (
        45.0,
        "55.00 ± 7.07",
    )
    assert hyperfl.by_round[1].final == hyperfl.by_round[2].before, "what round 1 made"
    assert local.by_round[2] == RoundAccuracy(
        before=Spread(mean=35.0, deviation=None),
        after=Spread(mean=45.0, deviation=None),
        final=Spread(mean=80.0, deviation=None),
    )


def test_the_last_round_is_always_told() -> None:
    assert [cell.by_round.keys() for cell in summarise(RUNS, RESULTS)] == [{2}, {2}]


def test_of_a_budget_for_all_rounds_only_the_last_is_told() -> None:
    run = run_of("dp-fedavg", 1)
    (cell,) = summarise([run], {run.key: result(50.0, 1.0, [20.0, 30.0])}, checkpoints=(1,))
    assert cell.by_round.keys() == {2}


def test_the_papers_figures_are_those_of_the_paper() -> None:
    file = PROJECT / "experiments" / "paper.toml"
    tables = {name: load_paper_table(file, name) for name in ("table1", "table2", "table4")}
    assert {name: len(table.figures) for name, table in tables.items()} == {
        "table1": 56,
        "table2": 20,
        "table4": 5,
    }
    assert [table.rounds for table in tables.values()] == [200, 200, None]
    found = {(f.method, f.dataset, f.clients): f.accuracy for f in tables["table1"].figures}
    assert found["hyperfl", "fashion-mnist", 20] == 88.28
    assert found["dp-fedavg", "cinic10", 100] == 29.94
    assert found["local", "emnist", 100] == 75.68
    with pytest.raises(ExperimentError, match=r"no table 'table3'; it has table1, table2, table4"):
        load_paper_table(file, "table3")


def test_a_wrong_figure_is_named(tmp_path: Path) -> None:
    file = tmp_path / "paper.toml"
    file.write_text('[table1]\nfigures = [{ method = "local", dataset = "digits", client = 3 }]')
    with pytest.raises(ExperimentError, match=r"paper.toml: table1: figures\.0\.client"):
        load_paper_table(file, "table1")
    file.write_text("[table1]\nfigure = 1")
    with pytest.raises(ExperimentError, match="table1: figures: Field required"):
        load_paper_table(file, "table1")
