"""Other methods than HyperFL through real processes, HTTP and a database."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.federation.plans import KNOWN_METHODS, takes_backbone
from tests.support.processes import (
    Finished,
    ServingCoordinator,
    hyperfl,
    hyperfl_here,
    worker_toml,
)
from tests.support.tiny_images import NUM_CLASSES, TRAIN_EXAMPLES, tiny_data

pytestmark = pytest.mark.e2e

_MODEL = ("--model", "tests.support.extractors:one_layer_on_4x4", "--image-shape", "1x4x4")
_NUM_PARAMETERS = (16 + 1) * 32 + (32 + 1) * 10
"""Of this model, its head included."""
_LEARNS = ("--rounds", 2, "--set", "epochs=20", "--set", "batch_size=5")


@pytest.fixture
def demo(images: Path, tmp_path: Path) -> Callable[..., Finished]:
    """Runs ``hyperfl demo`` on small images; its coordinator, worker and steps are processes."""

    def run(*options: object) -> Finished:
        return hyperfl(
            *("demo", "--dataset", "image-folder", "--data-dir", images, "--json"),
            *_MODEL,
            *options,
            folder=tmp_path,
        )

    return run


def test_a_demo_of_fedavg_takes_a_rule_and_caps_and_runs_to_its_final_evaluation(
    demo: Callable[..., Finished], tmp_path: Path
) -> None:
    rule = ("--aggregation", "trimmed-mean", "--trim-fraction", 0.34, "--max-update-norm", 5)
    options = ("--method", "fedavg", "--encoding", "factored", "--clients", 3, *_LEARNS)
    done = demo(*options, *rule, "--state-dir", tmp_path / "demo")
    assert done.exit_code == 0, done.errors
    result = done.json
    assert (result["method"], result["rounds"]) == ("fedavg", 2)
    assert result["accuracy_mean"] > 90
    assert result["bytes_up_per_client_round"] > 2 * _NUM_PARAMETERS
    found = json.loads((tmp_path / "demo" / "federation.json").read_text())
    aggregation = found["aggregation"]
    assert (aggregation["rule"], aggregation["trim_fraction"]) == ("trimmed-mean", 0.34)
    policy = found["round_policy"]
    assert (policy["max_update_norm"], policy["minimum_updates"]) == (5.0, 3)


def test_local_training_shares_nothing(
    coordinator: ServingCoordinator, images: Path, tmp_path: Path
) -> None:
    options = ("--method", "local", "--encoding", "dense", "--num-classes", NUM_CLASSES)
    coordinator.create_federation("alone", *options, *_MODEL, "--cohort-size", 2, *_LEARNS)
    clients = coordinator.invite("alone", "site-a", "site-b")
    assert coordinator.admin("federation", "start", "alone").exit_code == 0
    config = tmp_path / "worker.toml"
    config.write_text(worker_toml(coordinator.url, "alone", clients, tiny_data(images, 2)))
    done = hyperfl_here("worker", "run", "--config", config, folder=tmp_path)
    assert done.exit_code == 0, done.errors
    rounds = coordinator.admin("round", "list", "alone", "--json").json
    assert [one["kind"] for one in rounds] == ["train", "train", "evaluate"]
    assert rounds[1]["metrics"]["accuracy_after"] > 0.9
    assert rounds[2]["metrics"]["accuracy"] == rounds[1]["metrics"]["accuracy_after"]
    assert all(one["bytes_up"] < len(clients) * 1000 for one in rounds)


def test_a_demo_whose_client_diverges_ends_at_once_with_the_reason(
    demo: Callable[..., Finished],
) -> None:
    options = ("--set", "learning_rate=100", "--set", "weight_decay=0.9", "--set", "epochs=200")
    done = demo("--method", "local", *options, "--clients", 2, "--rounds", 1)
    assert done.exit_code == 1
    assert "client-0, round 1: the training loss became NaN or infinite" in done.errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--partition", "foo"), "partition: Input should be"),
        (("--clients", 2, "--cohort-size", 3), "--cohort-size 3 is more than --clients 2"),
        (("--dataset", "fashion-mnist"), "data_dir is required"),
        (
            ("--dataset", "fashion-mnist", "--data-dir", "absent"),
            "--data-dir absent is not a folder",
        ),
    ],
)
def test_a_demo_without_its_data_does_not_begin(
    tmp_path: Path, options: tuple[str | int, ...], message: str
) -> None:
    done = hyperfl("demo", *options, "--state-dir", "demo", folder=tmp_path)
    assert (done.exit_code, done.errors.count("\n")) == (2, 1), done.errors
    assert message in done.errors
    assert list(tmp_path.iterdir()) == []


def test_a_demo_whose_folder_lacks_the_data_ends_before_a_federation_begins(tmp_path: Path) -> None:
    options = ("--dataset", "fashion-mnist", "--data-dir", tmp_path, "--state-dir", "demo")
    done = hyperfl_here("demo", *options, folder=tmp_path)
    assert (done.exit_code, done.errors.count("\n")) == (2, 1), done.errors
    assert "expected the file train-images-idx3-ubyte or" in done.errors
    assert not (tmp_path / "demo" / "worker.toml").exists()


def test_a_private_demo_agrees_on_its_noise_and_says_so(
    demo: Callable[..., Finished], tmp_path: Path
) -> None:
    options = ("--method", "dp-fedavg", "--set", "epochs=1", "--state-dir", tmp_path / "demo")
    done = demo("--clients", 2, "--rounds", 1, *options)
    assert done.exit_code == 0, done.errors
    found = json.loads((tmp_path / "demo" / "federation.json").read_text())
    agreed = found["training"]["hyperparameters"]
    assert agreed["sample_rate"] == pytest.approx(2 * 50 / TRAIN_EXAMPLES)
    names = ("epsilon", "delta", "noise_multiplier", "sample_rate")
    assert done.json["privacy"] == {name: agreed[name] for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(KNOWN_METHODS.keys() - {"fedavg", "local"}))
def test_every_method_runs_a_round(method: str, tmp_path: Path) -> None:
    options = ["--method", method, "--clients", 2, "--rounds", 1, "--dataset", "digits"]
    options += ["--set", "epochs=1"]
    if takes_backbone(method):
        options += ["--model", "vit:test_vit", "--image-shape", "3x32x32"]
        options += ["--backbone-weights", "random"]
    elif method == "fedbn":
        options += ["--model", "tests.support.extractors:normalised_on_digits"]
    done = hyperfl("demo", *options, "--json", folder=tmp_path)
    assert done.exit_code == 0, done.errors
    result = done.json
    assert (result["method"], result["rounds"]) == (method, 1)
    assert set(result["accuracy_per_client"]) == {"client-0", "client-1"}
    assert 0 < result["accuracy_final_mean"] <= 100


def test_a_demo_with_too_few_clients_for_its_rule_says_so(tmp_path: Path) -> None:
    done = hyperfl("demo", "--clients", 2, "--aggregation", "median", folder=tmp_path)
    assert done.exit_code == 2
    assert done.errors.strip() == (
        "error: aggregation median needs minimum_updates of at least 3, not 2"
    )
