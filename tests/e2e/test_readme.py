"""The README's commands, as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from coordinator.cli import app
from coordinator.settings import CoordinatorSettings
from tests.support.processes import PROJECT, ServingCoordinator, hyperfl
from worker.settings import WorkerSettings

pytestmark = pytest.mark.e2e

_README = (PROJECT / "README.md").read_text()
_SHELL_BLOCKS = re.findall(r"```bash\n(.*?)```", _README, re.DOTALL)


def _commands(block: str) -> list[list[str]]:
    return [
        words
        for line in block.replace("\\\n", " ").splitlines()
        if (words := shlex.split(line, comments=True))
    ]


_HYPERFL_COMMANDS = [
    words for block in _SHELL_BLOCKS for words in _commands(block) if words[0] == "hyperfl"
]
_CURL_BLOCKS = [block for block in _SHELL_BLOCKS if "curl " in block]


def test_the_readme_shows_commands_and_curl_calls() -> None:
    assert len(_HYPERFL_COMMANDS) >= 8
    assert len(_CURL_BLOCKS) >= 5


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


def test_the_method_shown_trains(tmp_path: Path) -> None:
    (code,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", _README, re.DOTALL)
        if block.startswith("# radiology/methods.py")
    )
    (tmp_path / "radiology").mkdir()
    (tmp_path / "radiology" / "methods.py").write_text(code)
    (words,) = (words for words in _HYPERFL_COMMANDS if "radiology.methods:FedProx" in words)
    path = f"{PROJECT}:{tmp_path}"
    sizes = ("--clients", "2", "--rounds", "1", "--json")
    done = hyperfl(*words[1:], *sizes, folder=tmp_path, PYTHONPATH=path)
    assert done.exit_code == 0, done.errors
    assert done.json["accuracy_mean"] > 60
    refused = hyperfl(*words[1:], *sizes, "--set", "epochs=0", folder=tmp_path, PYTHONPATH=path)
    assert refused.exit_code == 2
    assert refused.errors.strip().endswith(
        "building 'radiology.methods:FedProx' failed: epochs: "
        "Input should be greater than or equal to 1"
    )


def test_every_setting_shown_is_one() -> None:
    shown = set(re.findall(r"HYPERFL_([A-Z_]+)`", _README))
    known = {
        name.upper()
        for settings in (CoordinatorSettings, WorkerSettings)
        for name in settings.model_fields
    }
    assert shown <= known
    assert len(shown) >= 10


def test_the_curl_examples_work_in_order(coordinator: ServingCoordinator, tmp_path: Path) -> None:
    specify = next(words for words in _HYPERFL_COMMANDS if words[1:3] == ["worker", "specify"])
    assert hyperfl(*specify[1:], folder=tmp_path).exit_code == 0
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
    done = hyperfl("worker", "run", "--config", file, folder=tmp_path)
    assert done.exit_code == 2
    assert "site-a.token cannot be read" in done.errors.splitlines()[-1]
