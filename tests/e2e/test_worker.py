"""Worker processes at a site: they train, are stopped, find damage, and say what is wrong."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import ServingCoordinator, hyperfl, hyperfl_here, worker_toml
from tests.support.tiny_images import NUM_CLASSES, TINY_MODEL, tiny_data, write_images
from worker.demo.processes import run_in_background

pytestmark = pytest.mark.e2e

_NO_DATA = 'dataset = "digits"'


@pytest.fixture
def site(coordinator: ServingCoordinator, images: Path, tmp_path: Path) -> Callable[..., Path]:
    """Creates a federation with two clients and returns their worker's TOML file."""

    def create(name: str, *options: object, epochs: int = 1, data: str | None = None) -> Path:
        tiny = (*TINY_MODEL, "--num-classes", NUM_CLASSES, "--set", f"epochs={epochs}")
        coordinator.create_federation(name, *tiny, "--cohort-size", 2, *options)
        clients = coordinator.invite(name, "site-a", "site-b")
        config = tmp_path / "worker.toml"
        data = data or tiny_data(images, len(clients))
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
    config = site("whole", "--rounds", 2)
    coordinator.admin("federation", "start", "whole")
    done = hyperfl_here("worker", "run", "--config", config, folder=config.parent)
    assert done.exit_code == 0, done.errors
    shown = coordinator.admin("federation", "show", "whole", "--json").json
    assert (shown["state"], shown["rounds_committed"]) == ("finished", 2)

    rows = hyperfl("worker", "evaluate", "--config", config, "--json", folder=config.parent).json
    final = coordinator.admin("round", "show", "whole", 3, "--json").json
    reported = {a["client"]: a["metrics"]["accuracy"] for a in final["assignments"]}
    assert {row["client"]: row["accuracy"] for row in rows} == reported
    assert {row["weights_version"] for row in rows} == {2}


def test_a_worker_has_its_clients_alone_until_it_is_stopped_and_goes_on_at_the_next_start(
    coordinator: ServingCoordinator, site: Callable[..., Path]
) -> None:
    config = site("stopped", "--rounds", 1, "--set", "batch_size=1", epochs=1000)
    coordinator.admin("federation", "start", "stopped")
    with run_in_background(
        "first", config.parent, "worker", "run", "--config", str(config)
    ) as first:
        first.wait_for_event("work begins")
        other = hyperfl_here("worker", "run", "--config", config, folder=config.parent)
        assert other.exit_code == 1
        assert "in use by another worker" in _say_on_one_line(other.errors)
        time.sleep(0.5)  # so that it is between two steps of the hypernetwork
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
    config.write_text(worker_toml("http://127.0.0.1:9", "nowhere", {"site-a": "t"}, _NO_DATA))
    with run_in_background("worker", tmp_path, "worker", "run", "--config", str(config)) as worker:
        worker.wait_for_event("coordinator not reached, trying again")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(20) == 0


def test_a_damaged_private_state_is_named_and_left_untouched(
    coordinator: ServingCoordinator, site: Callable[..., Path]
) -> None:
    config = site("damaged", "--rounds", 1)
    coordinator.admin("federation", "start", "damaged")
    assert hyperfl_here("worker", "run", "--config", config, folder=config.parent).exit_code == 0
    file = config.parent / "state" / "site-b" / "private.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    done = hyperfl_here("worker", "evaluate", "--config", config, folder=config.parent)
    assert done.exit_code == 1
    line = _say_on_one_line(done.errors)
    assert str(file) in line
    assert "damaged" in line
    assert file.read_bytes() == content


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
    write_images(config.parent / "three-classes", 3, side=4, train_examples=3, test_examples=3)
    done = hyperfl_here("worker", "run", "--config", config, folder=config.parent)
    assert done.exit_code == 2
    assert words in _say_on_one_line(done.errors)


def test_the_demo_reports_what_it_measured_and_repeats_itself(tmp_path: Path) -> None:
    options = ("--dataset", "digits", "--clients", 2, "--rounds", 2, "--seed", 5, "--json")
    options += ("--set", "epochs=1")
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

    used = hyperfl_here("demo", *options, "--state-dir", tmp_path / "first", folder=tmp_path)
    assert used.exit_code == 2
    assert "is not empty" in _say_on_one_line(used.errors)
