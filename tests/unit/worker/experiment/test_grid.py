"""An experiment's file: what it says is run, each run once; what it says wrong is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.main import get_command

from shared.federation.specification import RoundPolicy
from tests.support.processes import PROJECT
from worker.commands.protection_options import encoding_plan, protection_of
from worker.demo.command import demo
from worker.errors import ExperimentError
from worker.experiment.grid import (
    Grid,
    Run,
    load_experiment,
    with_backbone_digests,
    with_hyperparameters,
)
from worker.experiment.paper import load_paper_table
from worker.experiment.results import read_finished
from worker.models.registry import default_image_shape
from worker.operations.specification import specify
from worker.operations.specification_request import SpecificationRequest

OTHERS = {"paper.toml", "table3.toml", "table5.toml"}
"""Files that are no grids: the paper's figures, and tables of attacks."""
READY = sorted(one for one in (PROJECT / "experiments").glob("*.toml") if one.name not in OTHERS)
GOOD = """
title = "two seeds"
[[grids]]
methods = ["hyperfl"]
datasets = ["digits"]
clients = [2, 4]
seeds = [1, 2]
rounds = 3
settings = [{ learning_rate = 0.1 }, { learning_rate = 0.2 }]
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "grid.toml"
    file.write_text(text)
    return file


def test_a_grid_is_every_combination_with_seeds_slowest(tmp_path: Path) -> None:
    runs = load_experiment(write(tmp_path, GOOD)).runs()
    assert [(run.seed, run.clients, run.settings["learning_rate"]) for run in runs] == [
        (seed, clients, rate) for seed in (1, 2) for clients in (2, 4) for rate in (0.1, 0.2)
    ]
    assert len({run.key for run in runs}) == 8
    assert len({run.cell for run in runs}) == 4


def test_a_run_of_two_grids_is_run_once(tmp_path: Path) -> None:
    again = GOOD + GOOD.replace('title = "two seeds"', "").replace("[2, 4]", "[4, 6]")
    assert len(load_experiment(write(tmp_path, again)).runs()) == 12


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("methods =", "mehtods =", "grids.0.mehtods: unknown key|grids.0.methods: Field required"),
        ("rounds = 3", "rounds = 3\nepochs = 2", "grids.0.epochs: unknown key"),
        ("rounds = 3", 'rounds = 3\nprotection = "sum"', "grids.0.protection: .*'secure-sum'"),
        ("rounds = 3", "rounds = 0", "grids.0.rounds: .*greater than or equal to 1"),
        ('"digits"', '"digit"', "grids.0.datasets.0: .*'digits'"),
        ("clients = [2, 4]", "clients = []", "grids.0.clients"),
        ("seeds = [1, 2]", "seeds = []", "grids.0.seeds"),
        ("title", "titel", "title: Field required"),
        ("rounds = 3", "rounds =", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_place(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ExperimentError, match=message) as caught:
        load_experiment(write(tmp_path, GOOD.replace(old, new, 1)))
    assert "grid.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"absent.toml cannot be read: No such file"):
        load_experiment(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "hyprfl"}, "unknown method 'hyprfl'; the closest are .*hyperfl"),
        ({"preset": "papr"}, "unknown preset 'papr'"),
        (
            {"settings": {"learning_rte": 0.1}},
            "hyperfl on digits.*learning_rte: unknown .* closest are learning_rate",
        ),
        ({"settings": {"epochs": 0}}, "epochs: .*greater than or equal to 1"),
        ({"method": "dp-fedavg", "settings": {"epsilon": 0}}, "epsilon: .*greater than 0"),
        ({"model": "cnn-mnits"}, "unknown model 'cnn-mnits'; the closest are cnn-mnist"),
        ({"model": "resnet18"}, "frozen backbone, which method hyperfl does not take"),
        ({"method": "hyperfl-lpm"}, "trains on a frozen backbone, which 'cnn-mnist' is not"),
        ({"method": "no method"}, "unknown method 'no method'"),
        ({"cohort_size": 3}, "cohort_size 3 is more than 2 clients"),
        ({"protection": "secure-sum", "epsilon": 8}, "epsilon is for the protections dp and"),
    ],
)
def test_what_no_worker_would_take_is_refused_before_anything_runs(
    changed: dict[str, object], message: str
) -> None:
    good = {"method": "hyperfl", "dataset": "digits", "clients": 2, "rounds": 1, "seed": 1}
    lpm = {"method": "hyperfl-lpm", "model": "resnet18"}
    fine = ({}, {"preset": "paper"}, {"method": "dp-fedavg"}, {"method": "own:mine"}, lpm)
    with_hyperparameters([Run.model_validate(good | one) for one in fine])
    with pytest.raises(ExperimentError, match=message):
        with_hyperparameters([Run.model_validate(good | changed)])


def test_the_arguments_are_ones_the_demo_takes() -> None:
    run = Run(
        method="hyperfl",
        dataset="cifar10",
        clients=100,
        rounds=7,
        seed=3,
        model="cnn-cifar",
        cohort_size=30,
        preset="paper",
        settings={"epochs": 2, "flag": True, "name": "x"},
    )
    command = get_command(demo)
    arguments = run.arguments(Path("/data/cifar10"), Path("/grids"))
    assert arguments[0] == "demo"
    given = command.make_context("demo", arguments[1:]).params
    assert list(given["settings"]) == ["epochs=2", "flag=true", "name=x"]
    assert Path(given["data_dir"]) == Path("/data/cifar10")
    assert (given["clients"], given["rounds"], given["seed"]) == (100, 7, 3)
    assert (given["cohort_size"], given["preset"], given["as_json"]) == (30, "paper", True)


@pytest.mark.parametrize("kind", ["none", "secure-sum", "dp", "secure-sum+dp"])
def test_a_protected_run_shares_what_its_demo_would(kind: str) -> None:
    grid = Grid.model_validate(
        {"methods": ["hyperfl"], "datasets": ["digits"], "clients": [4], "rounds": 1}
        | {"protection": kind, "epsilon": 2 if kind.endswith("dp") else None}
    )
    (run,) = with_hyperparameters(list(grid.runs()))
    given = get_command(demo).make_context("demo", run.arguments(None, Path())[1:]).params
    assert (given["protection"], given["epsilon"]) == (kind, run.epsilon)
    protected = protection_of(
        kind,
        sum_bits=None,
        sum_bound=None,
        allow_separable=False,
        epsilon=run.epsilon,
        delta=None,
        privacy=None,
    )
    specified = specify(
        SpecificationRequest(
            name="a",
            method="hyperfl",
            model="cnn-mnist",
            round_policy=RoundPolicy(
                rounds=1, cohort_size=4, minimum_updates=4, max_examples_weight=10
            ),
            dataset="digits",
            seed=1,
            encoding=encoding_plan(None, kind, "hyperfl"),
            protection=protected.summed,
            privacy=protected.privacy,
        )
    )
    assert specified.encoding.name == run.encoding
    trained = specified.training.hyperparameters
    assert run.hyperparameters["shared_part"] == trained.get("shared_part", "hypernetwork")
    assert (kind in run.variant) == (kind != "none")


def test_a_run_is_described_by_all_that_sets_it_apart() -> None:
    run = Run(method="local", dataset="digits", clients=4, rounds=2, seed=3)
    assert run.describe() == "local on digits, 4 clients, 2 rounds, seed 3"
    other = run.model_copy(
        update={"cohort_size": 2, "model": "cnn-mnist", "preset": "paper", "settings": {"a": 1}}
    )
    assert other.describe() == (
        "local on digits cnn-mnist, 4 clients (2 a round), 2 rounds, seed 3, preset paper, a=1"
    )
    odd = {"partition": "iid", "encoding": "dense", "backbone_weights": "random"}
    variant = "partition iid, encoding dense, RANDOM backbone"
    assert run.model_copy(update=odd).variant == variant


def test_the_papers_figures_are_for_its_own_partition_and_for_trained_backbones() -> None:
    table = load_paper_table(PROJECT / "experiments" / "paper.toml", "table1")
    run = Run(method="local", dataset="fashion-mnist", clients=20, rounds=2, seed=3)
    assert table.find(run) is not None
    assert table.find(run.model_copy(update={"partition": "iid"})) is None
    assert table.find(run.model_copy(update={"backbone_weights": "random"})) is None


def test_the_ready_files_models_are_ones_that_workers_know() -> None:
    for file in READY:
        for run in load_experiment(file).runs():
            if run.model is not None:
                assert default_image_shape(run.model) is not None


def test_the_key_does_not_depend_on_the_order_of_settings() -> None:
    first, second = (
        Grid(
            methods=("hyperfl",),
            datasets=("digits",),
            clients=(2,),
            rounds=1,
            settings=(settings,),
        )
        for settings in ({"epochs": 1, "momentum": 0.1}, {"momentum": 0.1, "epochs": 1})
    )
    assert next(first.runs()).key == next(second.runs()).key


@pytest.mark.parametrize("file", READY, ids=lambda file: file.stem)
def test_the_ready_files_load_and_their_figures_fit(file: Path) -> None:
    experiment = load_experiment(file)
    runs = experiment.runs()
    with_hyperparameters(runs)
    if experiment.paper is None:
        return
    paper = load_paper_table(file.with_name("paper.toml"), experiment.paper)
    for run in runs:
        assert paper.find(run) is not None, f"the paper has no figure for {run.describe()}"


RECORDED = sorted((PROJECT / "experiments" / "recorded").glob("*.jsonl"))


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_what_is_recorded_is_still_a_run_of_its_experiment(file: Path) -> None:
    experiment = load_experiment(PROJECT / "experiments" / f"{file.stem}.toml")
    known = {run.key for run in with_hyperparameters(experiment.runs())}
    assert read_finished(file).keys() <= known


def test_there_are_ready_files() -> None:
    names = {file.stem for file in READY}
    assert names == {
        *("accuracy", "aligned", "baselines", "first-rounds", "lpm", "protected", "quick"),
        *("table1", "table2", "table4"),
    }


ONE = {"method": "hyperfl", "dataset": "digits", "clients": 2, "rounds": 3, "seed": 1}
LPM = GOOD.replace('"hyperfl"', '"fedavg-fixed"').replace(
    "rounds = 3", 'rounds = 3\nmodels = ["resnet18"]\nbackbone_weights = "weights.safetensors"'
)


def test_a_backbones_file_lies_beside_the_grid_and_not_in_the_key(tmp_path: Path) -> None:
    runs = load_experiment(write(tmp_path, LPM)).runs()
    with_hyperparameters(runs)
    with pytest.raises(ExperimentError, match=r"weights.safetensors is missing; .*pretrain"):
        with_backbone_digests(runs, tmp_path)
    (tmp_path / "weights.safetensors").touch()
    with_backbone_digests(runs, tmp_path)
    assert str(tmp_path) not in runs[0].key
    arguments = runs[0].arguments(None, tmp_path)
    place = arguments.index("--backbone-weights")
    assert arguments[place + 1] == str(tmp_path / "weights.safetensors")


def test_runs_under_other_defaults_are_other_runs() -> None:
    (run,) = with_hyperparameters([Run.model_validate(ONE)])
    (chosen,) = with_hyperparameters([Run.model_validate(ONE | {"settings": {"epochs": 2}})])
    (paper,) = with_hyperparameters([Run.model_validate(ONE | {"preset": "paper"})])
    assert run.hyperparameters["weight_decay"] == 0.005
    assert (chosen.hyperparameters["epochs"], paper.hyperparameters["hidden_size"]) == (2, 128)
    before = run.model_copy(
        update={"hyperparameters": run.hyperparameters | {"weight_decay": 0.0005}}
    )
    assert len({one.key for one in (run, chosen, paper, before)}) == 4


def test_what_specify_fills_in_is_no_hyperparameter_of_a_run() -> None:
    given = ONE | {"method": "dp-fedavg"}
    (run,) = with_hyperparameters([Run.model_validate(given)])
    assert "rounds" not in run.hyperparameters
    assert run.hyperparameters["epsilon"] == 4.0


@pytest.mark.parametrize("source", ["hub", "random"])
def test_weights_that_are_no_file_are_handed_on(tmp_path: Path, source: str) -> None:
    runs = load_experiment(write(tmp_path, LPM.replace("weights.safetensors", source))).runs()
    with_backbone_digests(runs, tmp_path)
    arguments = runs[0].arguments(None, tmp_path)
    assert arguments[arguments.index("--backbone-weights") + 1] == source


def test_backbone_weights_without_a_backbone_are_refused(tmp_path: Path) -> None:
    runs = load_experiment(write(tmp_path, LPM.replace("fedavg-fixed", "fedavg"))).runs()
    with pytest.raises(ExperimentError, match="which uses no frozen backbone"):
        with_hyperparameters(runs)


@pytest.mark.parametrize(
    "file", [file for file in READY if file.stem != "table2"], ids=lambda file: file.stem
)
def test_the_ready_files_are_ones_that_workers_take(file: Path) -> None:
    with_hyperparameters(load_experiment(file).runs())


def test_accuracy_has_the_comparisons_that_it_is_for_the_most_worth_first() -> None:
    runs = load_experiment(PROJECT / "experiments" / "accuracy.toml").runs()
    assert {(run.dataset, run.partition) for run in runs} == {("fashion-mnist", "paper")}
    found = [
        (run.method, run.clients, run.cohort_size, run.seed, run.preset, run.rounds)
        for run in runs
        if not run.settings
    ]
    assert found[:2] == [
        ("hyperfl", 20, None, 2022, None, 60),
        ("fedavg", 20, None, 2022, None, 60),
    ]
    assert set(found[2:]) == {
        ("hyperfl", 100, 30, 2022, None, 60),
        ("fedavg", 100, 30, 2022, None, 60),
        ("local", 20, None, 2022, None, 60),
        ("hyperfl", 20, None, 2023, None, 60),
        ("hyperfl", 20, None, 2024, None, 60),
        ("hyperfl", 20, None, 2022, "paper", 60),
        ("centaur", 20, None, 2022, None, 15),
        ("ppsgd", 20, None, 2022, None, 15),
        ("dp-fedavg", 20, None, 2022, None, 15),
        ("centaur", 20, None, 2022, None, 60),
        ("ppsgd", 20, None, 2022, None, 60),
        ("dp-fedavg", 20, None, 2022, None, 60),
    }


def test_accuracy_gives_the_others_what_might_help_them() -> None:
    runs = load_experiment(PROJECT / "experiments" / "accuracy.toml").runs()
    assert [(run.method, run.settings) for run in runs if run.settings] == [
        ("fedavg", {"feature_dropout": 0.5}),
        ("dp-fedavg", {"learning_rate": 0.5}),
        ("ppsgd", {"learning_rate": 0.5}),
    ]
