"""The commands and examples of README.md and of the pages in docs/, as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from coordinator.settings import CoordinatorSettings
from shared.terminal.cli import app
from tests.support.processes import PROJECT, ServingCoordinator, hyperfl, hyperfl_here
from worker.data.source import DataSource
from worker.settings import WorkerSettings

pytestmark = pytest.mark.e2e

_README = (PROJECT / "README.md").read_text()
_PAGES = [_README, *(page.read_text() for page in sorted((PROJECT / "docs").rglob("*.md")))]


def _blocks(language: str) -> list[str]:
    """Fenced blocks of all pages, the README's first."""
    return [b for page in _PAGES for b in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)]


def _commands(block: str) -> list[list[str]]:
    return [
        words
        for line in block.replace("\\\n", " ").splitlines()
        if (words := shlex.split(line, comments=True))
    ]


_COMMANDS = [words for block in _blocks("bash") for words in _commands(block)]
_HYPERFL_COMMANDS = [words for words in _COMMANDS if words[0] == "hyperfl"]
_CURL_BLOCKS = [block for block in _blocks("bash") if "curl " in block]


def test_the_pages_show_commands_and_curl_calls() -> None:
    assert len(_HYPERFL_COMMANDS) >= 30
    assert len(_CURL_BLOCKS) >= 5


def test_the_pages_show_the_commands_that_the_readme_had_by_itself() -> None:
    shown = {" ".join(words[1:3]) for words in _HYPERFL_COMMANDS}
    assert shown >= {
        "coordinator serve",
        "coordinator backup",
        "coordinator restore",
        "worker specify",
        "worker run",
        "worker evaluate",
        "worker personalize",
        "worker export",
        "worker rotate",
        "federation create",
        "federation start",
        "client enroll",
        "round watch",
        "token create",
        "token list",
        "token revoke",
        "audit list",
        "audit export",
        "experiment run",
        "experiment report",
        "demo --dataset",
        "demo --method",
    }


@pytest.mark.parametrize("words", _HYPERFL_COMMANDS, ids=" ".join)
def test_every_command_shown_exists_with_its_options(words: list[str]) -> None:
    command: Any = get_command(app)
    context = command.make_context("hyperfl", words[1:2], resilient_parsing=True)
    rest = words[1:]
    while hasattr(command, "get_command"):
        command = command.get_command(context, rest[0])
        assert command is not None, rest[0]
        rest = rest[1:]
    command.make_context(" ".join(words), rest)


def test_every_target_of_make_shown_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    shown = {words[1] for words in _COMMANDS if words[0] == "make"}
    assert {"demo", "test"} <= shown <= set(targets)


def _python_file(start: str) -> str:
    (code,) = (block for block in _blocks("python") if block.startswith(start))
    return code


def test_the_method_shown_trains(tmp_path: Path) -> None:
    code = _python_file("# radiology/methods.py")
    (tmp_path / "radiology").mkdir()
    (tmp_path / "radiology" / "methods.py").write_text(code)
    (words,) = (words for words in _HYPERFL_COMMANDS if "radiology.methods:FedProx" in words)
    model = ("--model", "tests.support.extractors:one_layer_on_digits", "--image-shape", "1x8x8")
    sizes = ("--clients", "2", "--rounds", "1", *model, "--json")
    done = hyperfl(*words[1:], *sizes, folder=tmp_path)
    assert done.exit_code == 0, done.errors
    assert done.json["accuracy_mean"] > 60
    refused = hyperfl(*words[1:], *sizes, "--set", "epochs=0", folder=tmp_path)
    assert refused.exit_code == 2
    assert refused.errors.strip().endswith(
        "building 'radiology.methods:FedProx' failed: epochs: "
        "Input should be greater than or equal to 1"
    )


def test_the_model_shown_fits_the_images_that_its_command_names(tmp_path: Path) -> None:
    (tmp_path / "radiology").mkdir()
    (tmp_path / "radiology" / "models.py").write_text(_python_file("# radiology/models.py"))
    (words,) = (words for words in _HYPERFL_COMMANDS if "radiology.models:extractor" in words)
    options = dict(zip(words[2::2], words[3::2], strict=True))
    specified = hyperfl_here(
        *("worker", "specify", "radiology", "--num-classes", "2"),
        *("--model", options["--model"], "--image-shape", options["--image-shape"]),
        folder=tmp_path,
    )
    assert specified.json["training"]["model"] == "radiology.models:extractor"


def test_the_settings_shown_are_all_that_there_are() -> None:
    name = re.compile(r"HYPERFL_([A-Z]+(?:_[A-Z]+)*)")
    known = {
        field.upper()
        for settings in (CoordinatorSettings, WorkerSettings)
        for field in settings.model_fields
    }
    for page in _PAGES:
        assert set(name.findall(page)) <= known
    assert set(name.findall((PROJECT / "docs" / "settings.md").read_text())) == known


def test_the_curl_examples_work_in_order(coordinator: ServingCoordinator, tmp_path: Path) -> None:
    specify = next(words for words in _HYPERFL_COMMANDS if words[1:3] == ["worker", "specify"])
    assert hyperfl_here(*specify[1:], folder=tmp_path).exit_code == 0
    environment = os.environ | {
        "COORDINATOR": coordinator.url,
        "ADMIN": coordinator.admin_token_file.read_text().strip(),
    }
    for block in _CURL_BLOCKS:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, (block, done.stdout, done.stderr)
    assert (tmp_path / "weights.safetensors").stat().st_size > 1_000_000


def test_the_worker_file_shown_is_accepted(tmp_path: Path) -> None:
    (document,) = re.findall(r"```toml\n(.*?)```", _README, re.DOTALL)
    file = tmp_path / "worker.toml"
    file.write_text(document)
    done = hyperfl_here("worker", "run", "--config", file, folder=tmp_path)
    assert done.exit_code == 2
    assert "site-a.token cannot be read" in done.errors.splitlines()[-1]


def test_every_data_source_shown_is_one() -> None:
    shown = [block for block in _blocks("toml") if block.startswith("[clients.data]")]
    assert len(shown) >= 2
    for block in shown:
        DataSource.model_validate(tomllib.loads(block)["clients"]["data"])
