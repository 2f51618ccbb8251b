"""``hyperfl worker init``: a TOML file to begin with, which the worker takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from worker.commands.worker import worker
from worker.settings import ClientConfig, WorkerConfig, WorkerSettings, load_config


def command(*words: str) -> Any:
    return CliRunner().invoke(worker, ["init", *words])


def test_the_file_says_what_was_given_and_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    done = command(
        *("--output", str(file), "--coordinator-url", "https://fl.example.org/hyperfl"),
        *("--federation", "clinics", "--client", "münchen-1", "--data-dir", 'C:\\x"y'),
    )
    assert (done.exit_code, "name" in done.output) == (2, True), "no client may be called so"
    done = command(
        *("--output", str(file), "--coordinator-url", "https://fl.example.org/hyperfl"),
        *("--federation", "clinics", "--client", "north", "--data-dir", "im\"a'ges"),
    )
    assert done.exit_code == 0, done.output
    assert "north.token" in done.output
    config = load_config(file, WorkerSettings())
    assert (config.coordinator_url, config.federation) == (
        "https://fl.example.org/hyperfl",
        "clinics",
    )
    (client,) = config.clients
    assert client.name == "north"
    assert client.data.data_dir == tmp_path / "im\"a'ges"


def test_the_file_has_every_member(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    assert command("--output", str(file)).exit_code == 0
    text = file.read_text()
    for model in (WorkerConfig, ClientConfig):
        for name in model.model_fields:
            assert re.search(rf"^(# )?(.*{name} = |\[+{name}\]|\[clients\.{name}\])", text, re.M)
    every = re.sub(r"^# (\w+ = |\[)", r"\1", text, flags=re.MULTILINE)
    file.write_text(every)
    assert load_config(file, WorkerSettings()).policy.require_protection == "secure-sum"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--coordinator-url", "federation.example.org"), "coordinator_url"),
        (("--federation", "two words"), "federation"),
        (("--output", "."), "exists"),
    ],
)
def test_what_would_not_be_taken_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command(*options)
    assert done.exit_code == 2
    assert done.output.startswith("error: ")
    assert done.output.count("\n") == 1
    assert words in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text("mine")
    done = command("--output", str(file))
    assert (done.exit_code, file.read_text()) == (2, "mine")
    assert "exists, and is left as it is" in done.output
