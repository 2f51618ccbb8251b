"""Means over seeds beside the paper's figures, and curves round by round."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import PROJECT
from worker.experiment.grid import ExperimentError, Run
from worker.experiment.plots import draw_plots, mean_curves
from worker.experiment.report import Figure, load_figures, summarise, write_markdown


def run_of(method: str, seed: int) -> Run:
    return Run(method=method, dataset="digits", clients=4, rounds=2, seed=seed)


def result(accuracy: float, seconds: float, curve: list[float]) -> dict[str, Any]:
    return {
        "accuracy_final_mean": accuracy,
        "seconds_per_round": [seconds, seconds + 1],
        "bytes_up_per_client_round": 1000,
        "bytes_down_per_client_round": 2_000_000,
        "rounds_detail": [
            {"accuracy_after": value, "bytes_up": 10, "bytes_down": 5, "seconds": seconds}
            for value in curve
        ],
    }


RUNS = [run_of(method, seed) for seed in (1, 2) for method in ("hyperfl", "local")]
RESULTS = {
    run_of("hyperfl", 1).key: result(90.0, 1.0, [50.0, 70.0]),
    run_of("hyperfl", 2).key: result(94.0, 2.0, [60.0, 90.0]),
    run_of("local", 1).key: result(80.0, 1.0, [40.0, 45.0]),
}
FIGURES = [
    Figure(method="local", dataset="digits", clients=20, accuracy=1.0),
    Figure(method="hyperfl", dataset="digits", clients=4, accuracy=88.28),
    Figure(method="local", dataset="digits", clients=4, seconds=37.0),
]


def test_a_cell_is_the_mean_over_its_seeds() -> None:
    hyperfl, local = summarise(RUNS, RESULTS, FIGURES)
    assert (hyperfl.accuracy, hyperfl.seeds) == (92.0, (1, 2))
    assert hyperfl.accuracy_deviation == pytest.approx(8**0.5)
    assert (hyperfl.seconds_per_round, hyperfl.paper_accuracy) == (2.0, 88.28)
    assert (local.accuracy, local.accuracy_deviation) == (80.0, None)
    assert (local.paper_accuracy, local.paper_seconds) == (None, 37.0)


def test_the_table_stands_beside_the_papers_figures() -> None:
    text = write_markdown("Quick", summarise(RUNS, RESULTS, FIGURES), len(RUNS))
    lines = text.splitlines()
    assert lines[0] == "# Quick"
    assert "3 of 4 runs." in text
    assert (
        "| hyperfl | digits | 4 | 2 | – | 2 | 92.00 ± 2.83 | 88.28 | 2.00 ± 0.71 | – "
        "| 1.0 kB | 2.0 MB |" in lines
    )
    assert "| local | digits | 4 | 2 | – | 1 | 80.00 | – | 1.50 | 37 | 1.0 kB | 2.0 MB |" in lines
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_curves_are_means_over_seeds_round_by_round() -> None:
    assert mean_curves(RUNS, RESULTS, "accuracy") == {
        ("digits", 4): {"hyperfl": [55.0, 80.0], "local": [40.0, 45.0]}
    }
    assert mean_curves(RUNS, RESULTS, "bytes")["digits", 4]["local"] == [15.0, 15.0]
    assert mean_curves(RUNS, RESULTS, "loss")["digits", 4]["local"] == []


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="the extra experiments is missing")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_measure_is_drawn(tmp_path: Path) -> None:
    drawn = draw_plots(RUNS, RESULTS, tmp_path)
    assert [file.name for file in drawn] == [
        "accuracy.png",
        "loss.png",
        "bytes.png",
        "seconds.png",
    ]
    for file in drawn:
        assert file.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ExperimentError, match=r"pip install 'hyperfl\[worker,experiments\]'"):
        draw_plots(RUNS, RESULTS, tmp_path)


def test_the_papers_figures_are_those_of_the_paper() -> None:
    file = PROJECT / "experiments" / "paper.toml"
    table1, table2, table4 = (load_figures(file, name) for name in ("table1", "table2", "table4"))
    assert (len(table1), len(table2), len(table4)) == (56, 20, 5)
    found = {(f.method, f.dataset, f.clients): f.accuracy for f in table1}
    assert found["hyperfl", "fashion-mnist", 20] == 88.28
    assert found["dp-fedavg", "cinic10", 100] == 29.94
    assert found["local", "emnist", 100] == 75.68
    with pytest.raises(ExperimentError, match=r"no table 'table3'; it has table1, table2, table4"):
        load_figures(file, "table3")


def test_a_wrong_figure_is_named(tmp_path: Path) -> None:
    file = tmp_path / "paper.toml"
    file.write_text('[table1]\nfigures = [{ method = "local", dataset = "digits", client = 3 }]')
    with pytest.raises(ExperimentError, match=r"paper.toml: table1: client"):
        load_figures(file, "table1")
    file.write_text("[table1]\nfigure = 1")
    with pytest.raises(ExperimentError, match="table1: expected figures"):
        load_figures(file, "table1")
