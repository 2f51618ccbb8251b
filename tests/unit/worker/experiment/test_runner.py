"""Resuming: what is finished is skipped, what was cut off or failed is run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from worker.errors import ExperimentError, RunFailedError
from worker.experiment.grid import Run
from worker.experiment.results import append, appending, read_results
from worker.experiment.runner import find_data_dirs, run_demo, run_missing


def run_of(seed: int, dataset: str = "digits") -> Run:
    return Run(method="hyperfl", dataset=dataset, clients=2, rounds=1, seed=seed)


RUNS = [run_of(seed) for seed in (1, 2, 3)]


class Executor:
    """Gives each run's seed as its result, or fails."""

    def __init__(self, *, failing: tuple[int, ...] = (), dying: tuple[int, ...] = ()) -> None:
        self.executed: list[int] = []
        self.failing, self.dying = failing, dying
        self.states: list[tuple[int, str]] = []

    def __call__(self, run: Run) -> dict[str, Any]:
        self.executed.append(run.seed)
        if run.seed in self.failing:
            raise RunFailedError("no memory")
        if run.seed in self.dying:
            raise KeyboardInterrupt
        return {"seed": run.seed}

    def run(self, file: Path) -> list[Run]:
        return run_missing(
            RUNS, file, self, lambda run, state: self.states.append((run.seed, state))
        )


def test_every_run_is_executed_once_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.jsonl"
    first, second = Executor(), Executor()
    assert first.run(file) == []
    assert second.run(file) == []
    assert (first.executed, second.executed) == ([1, 2, 3], [])
    assert read_results(file) == {run.key: {"seed": run.seed} for run in RUNS}
    assert second.states == [(1, "skipped"), (2, "skipped"), (3, "skipped")]


def test_what_was_made_under_other_defaults_or_with_another_backbone_is_made_again(
    tmp_path: Path,
) -> None:
    file = tmp_path / "RESULTS.jsonl"
    made = RUNS[0].model_copy(
        update={"hyperparameters": {"epochs": 5}, "backbone_digest": "sha256:1"}
    )
    same_key = made.model_copy(update={"backbone_digest": "sha256:2"})
    other = made.model_copy(update={"hyperparameters": {"epochs": 4}})
    executed: list[Run] = []

    def execute(run: Run) -> dict[str, Any]:
        executed.append(run)
        return {"backbone": run.backbone_digest}

    for runs in ([made], [made], [same_key], [same_key], [other], [made]):
        run_missing(runs, file, execute, lambda *_: None)
    assert executed == [made, same_key, other, made]
    assert read_results(file)[made.key] == {"backbone": "sha256:1"}


def test_results_of_two_backbones_of_one_name_are_never_shown_together(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.jsonl"
    old, new = (
        [
            run.model_copy(
                update={"backbone_weights": "net.safetensors", "backbone_digest": digest}
            )
            for run in RUNS
        ]
        for digest in ("sha256:old", "sha256:new")
    )
    with appending(file) as stream:
        append(stream, run_of(4), {"seed": 4})
        for run in [*old, new[1]]:
            append(stream, run, {"backbone": run.backbone_digest})
    assert read_results(file) == {
        run_of(4).key: {"seed": 4},
        new[1].key: {"backbone": "sha256:new"},
    }


def test_a_result_is_not_lost_with_its_embeddings(tmp_path: Path) -> None:
    def demo(_: list[str]) -> dict[str, int]:
        return {"seed": 1}  # and no private state is there to read

    warnings: list[str] = []
    made = run_demo(RUNS[0], None, tmp_path, tmp_path / "kept", warnings.append, demo)
    assert made == {"seed": 1}
    (warning,) = warnings
    expected = f"{RUNS[0].describe()}: its embeddings could not be kept: [Errno 2] No such file"
    assert warning.startswith(expected)
    assert list((tmp_path / "kept").iterdir()) == []


def test_after_a_kill_it_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.jsonl"
    with pytest.raises(KeyboardInterrupt):
        Executor(dying=(2,)).run(file)
    again = Executor()
    again.run(file)
    assert again.executed == [2, 3]


@pytest.mark.parametrize("kept_bytes", [1, 40, -1])
def test_a_half_written_last_line_is_run_again(tmp_path: Path, kept_bytes: int) -> None:
    file = tmp_path / "RESULTS.jsonl"
    Executor().run(file)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept_bytes])
    assert len(read_results(file)) == 2
    again = Executor()
    again.run(file)
    assert again.executed == [3]
    assert file.read_bytes() == b"".join(lines)


def test_a_failed_run_is_told_and_tried_again(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.jsonl"
    first = Executor(failing=(2,))
    assert first.run(file) == [RUNS[1]]
    assert (2, "failed: no memory") in first.states
    assert first.executed == [1, 2, 3], "the others run all the same"
    again = Executor()
    assert again.run(file) == []
    assert again.executed == [2]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.jsonl"
    Executor().run(file)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
    with pytest.raises(ExperimentError, match=r"RESULTS.jsonl: line 2 is not a result"):
        Executor().run(file)


def test_two_experiments_never_write_to_one_file(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.jsonl"
    with appending(file) as stream:
        append(stream, RUNS[0], {"seed": 1})
        with pytest.raises(ExperimentError, match="in use by another experiment"):
            Executor().run(file)


def test_a_data_sets_folder_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    runs = [run_of(1), run_of(1, "cifar10")]
    assert find_data_dirs(runs, tmp_path) == {"digits": None, "cifar10": tmp_path / "cifar10"}
    assert find_data_dirs([run_of(1)], None) == {"digits": None}
    with pytest.raises(ExperimentError, match="the folder that contains cifar10/ with --data-dir"):
        find_data_dirs(runs, None)
    with pytest.raises(ExperimentError, match="emnist is not a folder"):
        find_data_dirs([run_of(1, "emnist")], tmp_path)
