"""The coordinator's side of the package needs nothing that only a worker has installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TRAINING = ("torch", "torchvision", "timm", "sklearn")
WORKER_ONLY = (*TRAINING, "PIL", "tenacity")
SLOW = (*TRAINING, "scipy", "dp_accounting", "opentelemetry.sdk")
"""What takes longer to load than most commands take."""


def block(*packages: str) -> str:
    """Code after which these packages are not to be found."""
    return f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if any(f"{{name}}.".startswith(f"{{one}}.") for one in {packages!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def invoke(*arguments: str) -> str:
    return f"""
from shared.terminal.cli import app

try:
    app({list(arguments)!r})
except SystemExit as end:
    assert end.code == 0, end.code
"""


def test_no_command_loads_what_it_does_not_need() -> None:
    steps = (
        "import shared.terminal.cli",
        invoke("--version"),
        invoke("--help"),
        invoke("worker", "--help"),
        invoke("coordinator", "serve", "--help"),
        "import coordinator.app",
        "from shared.tracing.spans import span\nwith span('training'): pass",
    )
    code = "".join(
        f"""
{step}
import sys
loaded = sorted(set(sys.modules) & set({SLOW!r}))
assert not loaded, (loaded, {step!r})
"""
        for step in steps
    )
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_a_worker_loads_pretrained_networks_only_when_it_is_asked_for_one() -> None:
    result = run(
        "import sys, worker.rounds.loop, worker.operations.specification"
        "\nloaded = {'timm', 'torchvision', 'opentelemetry'} & set(sys.modules)"
        "\nassert not loaded, loaded"
    )
    assert result.returncode == 0, result.stderr


def test_the_commands_work_where_only_the_coordinator_is_installed() -> None:
    helped = ("--help",), ("coordinator", "--help"), ("federation", "--help"), ("round", "--help")
    result = run(block(*WORKER_ONLY) + "".join(invoke(*arguments) for arguments in helped))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Usage:") == len(helped)


def test_variables_of_either_side_are_known_where_only_the_coordinator_is_installed() -> None:
    code = "\nfrom shared.environment import check_environment"
    for variable in ("HYPERFL_DEVICE", "HYPERFL_DATABASE_URL"):
        code += f"\ncheck_environment({{{variable!r}: 'x'}}, ())"
    result = run(block(*WORKER_ONLY) + code)
    assert result.returncode == 0, result.stderr


def test_traces_without_their_extra_end_a_command_with_one_line(tmp_path: Path) -> None:
    code = f"""
import os
os.environ["HYPERFL_TRACES"] = "1"
from shared.terminal.cli import app
app(["coordinator", "serve", "--data-dir", {str(tmp_path / "data")!r}, "--port", "0"])
"""
    result = run(block("opentelemetry.sdk") + code)
    assert result.returncode == 2, result.stderr
    assert result.stderr == (
        "error: HYPERFL_TRACES needs OpenTelemetry: pip install 'hyperfl[otel]'\n"
    )
    assert not (tmp_path / "data").exists()
