"""Worker processes at a site: they train, are stopped, find damage, and say what is wrong."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.processes import ServingCoordinator, hyperfl, worker_toml
from worker.demo.processes import run_in_background

pytestmark = pytest.mark.e2e

_DIGITS = 'dataset = "digits"\npartition = "iid"\nnum_clients = 2\nclient_index = {index}'
_TIMEOUT_SECONDS = 600.0


@pytest.fixture
def site(coordinator: ServingCoordinator, tmp_path: Path) -> Callable[..., Path]:
    """Creates a federation with two clients and returns their worker's TOML file."""

    def create(name: str, *options: object, data: str = _DIGITS) -> Path:
        coordinator.create_federation(name, "--dataset", "digits", *options)
        clients = coordinator.invite(name, "site-a", "site-b")
        config = tmp_path / "worker.toml"
        config.write_text(worker_toml(coordinator.url, name, clients, data))
        return config

    return create


def _say_on_one_line(errors: str) -> str:
    """The command's last words, after checking that there is no traceback."""
    assert "Traceback" not in errors
    line = errors.strip().splitlines()[-1]
    assert line.startswith("error: "), errors
    return line


def test_a_worker_trains_to_the_end_and_then_evaluates(
    coordinator: ServingCoordinator, site: Callable[..., Path]
) -> None:
    config = site("whole", "--rounds", 2, "--cohort-size", 2)
    coordinator.admin("federation", "start", "whole")
    done = hyperfl("worker", "run", "--config", config, folder=config.parent)
    assert done.exit_code == 0, done.errors
    shown = coordinator.admin("federation", "show", "whole", "--json").json
    assert (shown["state"], shown["rounds_committed"]) == ("finished", 2)

    rows = hyperfl("worker", "evaluate", "--config", config, "--json", folder=config.parent).json
    final = coordinator.admin("round", "show", "whole", 3, "--json").json
    reported = {a["client"]: a["metrics"]["accuracy"] for a in final["assignments"]}
    assert {row["client"]: row["accuracy"] for row in rows} == reported
    assert {row["weights_version"] for row in rows} == {2}


def test_a_stopped_worker_ends_at_once_and_goes_on_at_the_next_start(
    coordinator: ServingCoordinator, site: Callable[..., Path]
) -> None:
    config = site("stopped", "--rounds", 1, "--cohort-size", 2, "--set", "epochs=200")
    coordinator.admin("federation", "start", "stopped")
    with run_in_background(
        "first", config.parent, "worker", "run", "--config", str(config)
    ) as first:
        first.wait_for_event("work begins")
        time.sleep(1.0)  # so that it is between two steps of the hypernetwork
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(20) == 0
    assert "stopped; the next start repeats work that was not saved" in first.log_file.read_text()
    for client in ("site-a", "site-b"):
        assert (config.parent / "state" / client / "private.safetensors").exists()
    shown = coordinator.admin("round", "show", "stopped", 1, "--json").json
    assert shown["updates_received"] == 0
    with run_in_background(
        "second", config.parent, "worker", "run", "--config", str(config)
    ) as second:
        second.wait_for_event("work begins")


def test_a_worker_that_finds_no_coordinator_can_be_stopped(tmp_path: Path) -> None:
    config = tmp_path / "worker.toml"
    config.write_text(worker_toml("http://127.0.0.1:9", "nowhere", {"site-a": "t"}, _DIGITS))
    with run_in_background("worker", tmp_path, "worker", "run", "--config", str(config)) as worker:
        worker.wait_for_event("coordinator not reached, trying again")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(20) == 0


def test_a_damaged_private_state_is_named_and_left_untouched(
    coordinator: ServingCoordinator, site: Callable[..., Path]
) -> None:
    config = site("damaged", "--rounds", 1, "--cohort-size", 2)
    coordinator.admin("federation", "start", "damaged")
    assert hyperfl("worker", "run", "--config", config, folder=config.parent).exit_code == 0
    file = config.parent / "state" / "site-b" / "private.safetensors"
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)
    done = hyperfl("worker", "evaluate", "--config", config, folder=config.parent)
    assert done.exit_code == 1
    line = _say_on_one_line(done.errors)
    assert str(file) in line
    assert "damaged" in line
    assert file.read_bytes() == content


def test_two_workers_never_share_a_clients_state(
    coordinator: ServingCoordinator, site: Callable[..., Path]
) -> None:
    config = site("shared", "--rounds", 1)
    with run_in_background(
        "first", config.parent, "worker", "run", "--config", str(config)
    ) as first:
        first.wait_for_event("worker ready")
        done = hyperfl("worker", "run", "--config", config, folder=config.parent)
    assert done.exit_code == 1
    assert "in use by another worker" in _say_on_one_line(done.errors)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ('dataset = "fashion-mnist"\ndata_dir = "nowhere"', "nowhere"),
        ('dataset = "image-folder"\ndata_dir = "empty"', "empty"),
        ('dataset = "image-folder"\ndata_dir = "three-classes"', "10"),
    ],
)
def test_data_that_cannot_be_used_is_one_line(
    coordinator: ServingCoordinator, site: Callable[..., Path], data: str, words: str
) -> None:
    config = site(f"data-{words}", "--rounds", 1, data=data)
    (config.parent / "empty").mkdir()
    _write_images(config.parent / "three-classes", classes=("a", "b", "c"))
    done = hyperfl("worker", "run", "--config", config, folder=config.parent)
    assert done.exit_code == 2
    assert words in _say_on_one_line(done.errors)


def _write_images(folder: Path, classes: tuple[str, ...]) -> None:
    """A bright square on noise whose place is its class."""
    generator = np.random.default_rng(3)
    for split, count in (("train", 20), ("test", 5)):
        for index, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 60, (28, 28), dtype=np.uint8)
                pixels[8 * index : 8 * index + 8, 10:18] = 255
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


_EXTRACTOR = """
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(1, 4, 5, stride=3), nn.ReLU(), nn.Flatten()), 256
"""


def test_a_site_brings_its_own_images_and_its_own_model(tmp_path: Path) -> None:
    _write_images(tmp_path / "images", classes=("low", "middle", "high"))
    (tmp_path / "radiology.py").write_text(_EXTRACTOR)
    done = hyperfl(
        *("demo", "--dataset", "image-folder", "--data-dir", "images", "--partition", "iid"),
        *("--model", "radiology:small", "--image-shape", "1x28x28"),
        *("--clients", 2, "--rounds", 2, "--json"),
        folder=tmp_path,
        PYTHONPATH=f"{Path(__file__).parents[2]}:{tmp_path}",
    )
    assert done.exit_code == 0, done.errors
    result = json.loads(done.output.splitlines()[-1])
    assert result["model"] == "radiology:small"
    assert result["accuracy_final_mean"] > 90.0


def test_the_demo_reports_what_it_measured_and_repeats_itself(tmp_path: Path) -> None:
    options = ("--dataset", "digits", "--clients", 2, "--rounds", 2, "--seed", 5, "--json")
    done = hyperfl("demo", *options, "--state-dir", tmp_path / "first", folder=tmp_path)
    assert done.exit_code == 0, done.errors
    first = json.loads(done.output.splitlines()[-1])
    assert (first["method"], first["dataset"], first["model"]) == ("hyperfl", "digits", "cnn-mnist")
    assert (first["clients"], first["rounds"]) == (2, 2)
    assert set(first["accuracy_per_client"]) == {"client-0", "client-1"}
    assert len(first["seconds_per_round"]) == 2
    assert 0 < first["bytes_up_per_client_round"] < 2_000_000
    assert 50.0 < first["accuracy_mean"] <= 100.0
    assert 50.0 < first["accuracy_final_mean"] <= 100.0
    assert (tmp_path / "first" / "coordinator" / "hyperfl.db").exists()

    again = hyperfl("demo", *options, folder=tmp_path)
    assert json.loads(again.output.splitlines()[-1])["weights_digest"] == first["weights_digest"]

    used = hyperfl("demo", *options, "--state-dir", tmp_path / "first", folder=tmp_path)
    assert used.exit_code == 2
    assert "is not empty" in _say_on_one_line(used.errors)
