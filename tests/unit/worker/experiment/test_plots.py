"""Curves round by round, clients' labels and, only where asked for, embeddings."""

from __future__ import annotations

import stat
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.support.experiment_results import RESULTS, RUNS, result, run_of
from worker.errors import ExperimentError, PrivateStateError
from worker.experiment.drawing import looks_of
from worker.experiment.embeddings import draw_embeddings, embeddings_file, keep_embeddings
from worker.experiment.grid import Run
from worker.experiment.label_distribution import (
    LabelDistribution,
    count_labels,
    draw_label_distributions,
)
from worker.experiment.plots import draw_curves, find_curves
from worker.site import private_state
from worker.site.private_state import PrivateState

needs_matplotlib = pytest.mark.skipif(
    find_spec("matplotlib") is None, reason="the extra experiments is missing"
)
PNG = b"\x89PNG"


def test_curves_are_means_over_seeds_round_by_round_with_their_range() -> None:
    (panel,) = find_curves(RUNS, RESULTS, "accuracy").values()
    hyperfl, hyperfl_before, local, _ = panel
    assert (hyperfl.label, hyperfl.means) == ("hyperfl", [55.0, 80.0])
    assert (hyperfl.lowest, hyperfl.highest) == ([50.0, 70.0], [60.0, 90.0])
    assert (hyperfl_before.label, hyperfl_before.means) == ("hyperfl", [45.0, 70.0])
    assert [curve.is_before for curve in panel] == [False, True, False, True]
    assert (local.label, local.means) == ("local", [40.0, 45.0])
    assert find_curves(RUNS, RESULTS, "bytes")["digits\n4 clients"][1].means == [15.0, 15.0]
    assert find_curves(RUNS, RESULTS, "loss") == {}, "these results have no losses"


def test_runs_that_differ_in_their_number_of_rounds_are_told_apart() -> None:
    runs = [run_of("dp-fedavg", 1), run_of("dp-fedavg", 1, rounds=3), run_of("local", 1)]
    accuracies = ([20.0, 30.0], [15.0, 20.0, 25.0], [20.0, 30.0])
    results = {
        run.key: result(50.0, 1.0, after) for run, after in zip(runs, accuracies, strict=True)
    }
    (curves,) = find_curves(runs, results, "accuracy").values()
    assert [(curve.label, curve.means) for curve in curves if not curve.is_before] == [
        ("dp-fedavg, 2 rounds", [20.0, 30.0]),
        ("dp-fedavg, 3 rounds", [15.0, 20.0, 25.0]),
        ("local", [20.0, 30.0]),
    ]


def test_clients_and_models_that_differ_have_panels_of_their_own() -> None:
    runs = [run_of("local", 1), run_of("local", 1, clients=8), run_of("local", 1, cohort_size=2)]
    results = {run.key: result(50.0, 1.0, [20.0, 30.0]) for run in runs}
    assert list(find_curves(runs, results, "accuracy")) == [
        "digits\n4 clients",
        "digits\n8 clients",
        "digits\n4 clients (2 a round)",
    ]


def test_a_method_always_looks_the_same_and_no_two_of_a_table_do() -> None:
    table1 = ["hyperfl", "local", "fedavg", "dp-fedavg", "centaur", "ppsgd"]
    table1 += ["fedprox", "fedper", "fedbn", "ditto", "fedpac", "pfedhn", "hyperfl-plus"]
    table2 = ["hyperfl-lpm", "local-fixed", "local-adapter", "fedavg-fixed", "fedavg-adapter"]
    for table in (table1, table2, ["own.a:b", "own.c:d"]):
        assert len(set(looks_of(table).values())) == len(table)
    assert looks_of(["own.a:b", "local"])["local"] == looks_of(["local"])["local"]


@needs_matplotlib
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_measure_is_drawn(tmp_path: Path) -> None:
    drawn = draw_curves(RUNS, RESULTS, tmp_path)
    assert [file.name for file, _ in drawn] == ["accuracy.png", "bytes.png", "seconds.png"]
    assert all(file.read_bytes().startswith(PNG) for file, _ in drawn)


def test_without_matplotlib_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ExperimentError, match=r"pip install 'hyperfl\[worker,experiments\]'"):
        draw_curves(RUNS, RESULTS, tmp_path)


def test_labels_are_counted_as_the_partition_cuts_them() -> None:
    (found,) = count_labels([*RUNS, run_of("hyperfl", 1, dataset="emnist")], {"digits": None})
    assert (found.dataset, found.counts.shape) == ("digits", (4, 10))
    # The paper's groups: {0,1,2}, {2,3,4}, {4,5,6}, {6,7,8}.
    for client, row in enumerate(found.counts):
        group = [2 * client, 2 * client + 1, 2 * client + 2]
        assert row[group].min() > 4 * np.delete(row, group).max()


def test_data_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    run = run_of("hyperfl", 1, dataset="fashion-mnist")
    with pytest.raises(ExperimentError, match=r"^fashion-mnist: ") as caught:
        count_labels([run], {"fashion-mnist": tmp_path})
    assert "\n" not in str(caught.value)


@needs_matplotlib
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_labels_are_drawn(tmp_path: Path) -> None:
    names = tuple("abc")
    counts = LabelDistribution("digits", "paper", np.arange(15).reshape(5, 3), names)
    ((file, _),) = draw_label_distributions([counts, counts], tmp_path)
    assert file.read_bytes().startswith(PNG)
    assert draw_label_distributions([], tmp_path) == []


def save_state(folder: Path, index: int, *, embedding: bool = True) -> None:
    tensors = {"head.weight": np.full((3, 4), 7.0, np.float32)}
    if embedding:
        tensors["embedding"] = np.full(6, index, np.float32)
    state = PrivateState("demo", "sha256:0d", f"client-{index}", 1, tensors)
    private_state.save(folder / f"client-{index}", state)


@pytest.fixture
def run() -> Run:
    return run_of("hyperfl", 1, clients=6)


def test_of_private_states_only_the_embeddings_are_kept_for_their_owner(
    run: Run, tmp_path: Path
) -> None:
    for index in range(6):
        save_state(tmp_path / "state", index)
    keep_embeddings(run, tmp_path / "state", tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    assert file == embeddings_file(run, tmp_path / "kept")
    kept = private_state.safetensors.numpy.load(file.read_bytes())
    assert kept.keys() == {"embeddings"}
    assert kept["embeddings"].tolist() == [[float(index)] * 6 for index in range(6)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700


def test_a_method_without_embeddings_keeps_nothing(run: Run, tmp_path: Path) -> None:
    save_state(tmp_path / "state", 0, embedding=False)
    keep_embeddings(run, tmp_path / "state", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_damaged_state_is_named(run: Run, tmp_path: Path) -> None:
    save_state(tmp_path / "state", 0)
    file = tmp_path / "state" / "client-0" / private_state.FILE_NAME
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(PrivateStateError, match="is damaged: its digest does not match"):
        keep_embeddings(run, tmp_path / "state", tmp_path / "kept")


@needs_matplotlib
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kept_embeddings_are_drawn(run: Run, tmp_path: Path) -> None:
    for index in range(6):
        save_state(tmp_path / "state", index)
    keep_embeddings(run, tmp_path / "state", tmp_path)
    counts = LabelDistribution("digits", "paper", np.eye(6, 3, dtype=np.int64), ("a", "b", "c"))
    for labels in ([], [counts]):
        ((file, shown),) = draw_embeddings([run], tmp_path, labels, tmp_path)
        assert file.read_bytes().startswith(PNG)
        assert "private embeddings" in shown


def test_embeddings_that_were_not_kept_are_one_line(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="`hyperfl experiment run --keep-embeddings` keeps"):
        draw_embeddings([run], tmp_path, [], tmp_path)
    embeddings_file(run, tmp_path).write_bytes(b"no tensors")
    with pytest.raises(ExperimentError, match="holds no embeddings"):
        draw_embeddings([run], tmp_path, [], tmp_path)
