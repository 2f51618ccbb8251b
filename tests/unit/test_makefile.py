"""What make would run, without running it."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def would_run(*arguments: str) -> str:
    command = ["make", "--dry-run", "--always-make", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout


def test_pytorch_for_cpus_is_installed_first_and_on_demand_alone() -> None:
    assert "--index-url" not in would_run("install")
    light = would_run("install", "TORCH=cpu")
    assert light.index("--index-url https://download.pytorch.org/whl/cpu torch") < light.index(
        "--editable"
    )
    assert "which is not reached from here" in light
