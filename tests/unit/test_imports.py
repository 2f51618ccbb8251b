"""The coordinator's side of the package needs nothing that only a worker has installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRAINING = ("torch", "torchvision", "timm", "sklearn")
WORKER_ONLY = (*TRAINING, "PIL", "tenacity")
BLOCK = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {WORKER_ONLY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def invoke(*arguments: str) -> str:
    return f"""
import sys
from shared.terminal.cli import app

try:
    app({list(arguments)!r})
except SystemExit as end:
    assert end.code == 0, end.code
"""


@pytest.mark.parametrize(
    "code",
    [
        "import coordinator.app",
        "import shared.terminal.cli",
        invoke("--help"),
        invoke("--version"),
        invoke("coordinator", "serve", "--help"),
        invoke("worker", "--help"),
    ],
)
def test_the_training_packages_are_not_loaded(code: str) -> None:
    result = run(
        code
        + f"\nimport sys\nloaded = sorted(set(sys.modules) & set({TRAINING!r}))"
        + "\nassert not loaded, loaded"
    )
    assert result.returncode == 0, result.stderr


def test_a_worker_loads_pretrained_networks_only_when_it_is_asked_for_one() -> None:
    result = run(
        "import sys, worker.rounds.loop, worker.operations.specification"
        "\nloaded = {'timm', 'torchvision'} & set(sys.modules)\nassert not loaded, loaded"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("coordinator", "--help"), ("federation", "--help"), ("round", "--help")],
    ids=" ".join,
)
def test_the_commands_work_where_only_the_coordinator_is_installed(
    arguments: tuple[str, ...],
) -> None:
    result = run(BLOCK + invoke(*arguments))
    assert result.returncode == 0, result.stderr
    assert "Usage:" in result.stdout


@pytest.mark.parametrize("variable", ["HYPERFL_DEVICE", "HYPERFL_DATABASE_URL"])
def test_variables_of_either_side_are_known_where_only_the_coordinator_is_installed(
    variable: str,
) -> None:
    result = run(
        BLOCK
        + "\nfrom shared.environment import check_environment"
        + f"\ncheck_environment({{{variable!r}: 'x'}}, ())"
    )
    assert result.returncode == 0, result.stderr
