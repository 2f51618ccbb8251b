"""What a site does with a federation that has ended: personalise, export."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import (
    Finished,
    ServingCoordinator,
    hyperfl,
    hyperfl_here,
    worker_toml,
)
from tests.support.tiny_images import NUM_CLASSES, tiny_data

pytestmark = pytest.mark.e2e

_OPTIONS = (
    *("--model", "tests.support.extractors:one_layer_on_4x4", "--image-shape", "1x4x4"),
    *("--num-classes", NUM_CLASSES, "--rounds", 2, "--set", "epochs=1", "--set", "batch_size=5"),
)


@pytest.fixture(scope="module")
def config(
    coordinator: ServingCoordinator, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The TOML file of a worker that was invited when its federation had ended."""
    coordinator.create_federation("ended", *_OPTIONS)

    def join(name: str) -> Path:
        config = tmp_path_factory.mktemp(name) / "worker.toml"
        clients = coordinator.invite("ended", name)
        config.write_text(worker_toml(coordinator.url, "ended", clients, tiny_data(images, 3)))
        return config

    site_a = join("site-a")
    coordinator.admin("federation", "start", "ended")
    trained = _worker(site_a, "run")
    assert trained.exit_code == 0, trained.errors
    assert coordinator.admin("federation", "show", "ended", "--json").json["state"] == "finished"
    return join("late")


def _worker(config: Path, command: str, *options: object) -> Finished:
    return hyperfl_here("worker", command, "--config", config, *options, folder=config.parent)


def _worker_process(config: Path, command: str, *options: object) -> Finished:
    return hyperfl("worker", command, "--config", config, *options, folder=config.parent)


def test_a_client_that_never_took_part_gets_a_model_of_its_own(config: Path) -> None:
    for untrained in (("evaluate",), ("export", "--client", "late", "--output", "late.pt2")):
        refused = _worker(config, *untrained)
        assert refused.exit_code == 2
        assert "hyperfl worker personalize" in refused.errors
        assert not (config.parent / "late.pt2").exists()
    (row,) = _worker_process(config, "personalize", "--epochs", 3, "--json").json
    assert (row["client"], row["weights_version"]) == ("late", 2)
    assert row["accuracy_after"] > max(row["accuracy_before"], 0.7)
    (evaluated,) = _worker(config, "evaluate", "--json").json
    assert evaluated["accuracy"] == row["accuracy_after"]


def test_its_rounds_are_exported_whole_or_not_at_all(
    config: Path, coordinator: ServingCoordinator, tmp_path: Path
) -> None:
    def export(*options: object) -> Finished:
        return coordinator.admin("federation", "export", "ended", *options)

    for follow in ((), ("--follow",)):
        folder = tmp_path / f"out{len(follow)}"
        assert export("--output", folder, *follow, "--json").json == {
            "output": str(folder),
            "rounds": 3,
        }
        lines = (folder / "rounds.csv").read_text().splitlines()
        assert [line.split(",")[1:3] for line in lines[1:]] == [
            ["train", "committed"],
            ["train", "committed"],
            ["evaluate", "committed"],
        ]
    before = sorted(tmp_path.rglob("*"))
    for options, exit_code, words in (
        (("--output", folder), 2, "exists, and is left as it is"),
        (("--output", tmp_path / "none" / "file" / "x"), 0, "3 rounds"),
        (("--output", "/proc/x"), 1, "No such file or directory"),
        (("--format", "mlflow"), 2, "MLFLOW_TRACKING_URI"),
    ):
        done = export(*options)
        assert done.exit_code == exit_code, done.errors
        assert words in done.errors + done.output
        assert (done.errors + done.output).count("\n") == 1
    shutil.rmtree(tmp_path / "none")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_worker_of_a_late_client_alone_ends_at_once(config: Path) -> None:
    done = _worker(config, "run")
    assert done.exit_code == 0, done.errors
    assert "federation ended" in done.errors


def test_the_exported_model_runs_alone(config: Path) -> None:
    options = ("--client", "late", "--output", "late.pt2", "--format", "pt2", "--json")
    said = _worker_process(config, "export", *options).json
    assert (said["client"], said["weights_version"], said["image_shape"]) == ("late", 2, [1, 4, 4])
    code = f"{said['loading_code']}\nprint(list(logits.shape))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        capture_output=True,
        text=True,
        cwd=config.parent,
        check=False,
    )
    assert json.loads(done.stdout) == [1, 10], done.stderr


@pytest.mark.parametrize(
    ("method", "words"), [("fedavg", None), ("local", "method local shares nothing")]
)
def test_other_methods_personalise_what_they_share(
    coordinator: ServingCoordinator, images: Path, tmp_path: Path, method: str, words: str | None
) -> None:
    """A client trains two rounds; another, which never took part, personalises what came of it."""
    name = f"ended-{method}"
    coordinator.create_federation(name, *_OPTIONS, "--method", method)
    tokens = coordinator.invite(name, "site-a", "late")
    sites = {}
    for client, token in tokens.items():
        (tmp_path / client).mkdir()
        sites[client] = tmp_path / client / "worker.toml"
        data = tiny_data(images, 3)
        sites[client].write_text(worker_toml(coordinator.url, name, {client: token}, data))
    coordinator.admin("federation", "start", name)
    trained = _worker(sites["site-a"], "run")
    assert trained.exit_code == 0, trained.errors
    if words is None:
        _exports_by_its_number(sites["site-a"], versions=2)

    done = _worker(sites["late"], "personalize", "--epochs", 3, "--json")
    if words is not None:
        assert (done.exit_code, words in done.errors) == (2, True), done.errors
        return
    (row,) = done.json
    assert row["accuracy_after"] > row["accuracy_before"]
    (evaluated,) = _worker(sites["late"], "evaluate", "--json").json
    assert evaluated["accuracy"] == row["accuracy_after"]
    options = ("--client", "late", "--output", "late.pt2", "--json")
    assert _worker(sites["late"], "export", *options).json["method"] == method


def _exports_by_its_number(config: Path, versions: int) -> None:
    """A client without private tensors has a model of each version."""
    options = ("--client", "site-a", "--format", "state-dict", "--output", "a.safetensors")
    digests = {
        _worker(config, "export", *options, "--which", version, "--json").json["weights_digest"]
        for version in range(1, versions + 1)
    }
    assert len(digests) == versions
    nowhere = _worker(config, "export", *options, "--which", versions + 7)
    assert (nowhere.exit_code, nowhere.errors.count("\n")) == (1, 1), nowhere.errors


@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        (("--client", "lat", "--output", "x"), 2, "no client 'lat'; the closest are late"),
        (("--client", "late", "--output", "x", "--format", "h5"), 2, "unknown format 'h5'"),
        (("--client", "late", "--output", "x", "--which", "1"), 2, "version 1 would be paired"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    config: Path, options: tuple[str, ...], exit_code: int, words: str
) -> None:
    done = _worker(config, "export", *options)
    assert done.exit_code == exit_code
    assert done.errors.startswith("error: "), done.errors
    assert done.errors.count("\n") == 1, done.errors
    assert words in done.errors
    assert not (config.parent / "x").exists()
