"""The wheel by itself: installed without torch, away from the source, it serves."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

import pytest

from tests.support.processes import PROJECT

pytestmark = pytest.mark.e2e

_START_SECONDS = 60


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of an environment that holds the wheel's base install alone."""
    folder = tmp_path_factory.mktemp("wheel")
    _run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", str(folder), str(PROJECT)),
    )
    (wheel,) = folder.glob("hyperfl-*.whl")
    venv.create(folder / "environment", with_pip=True)
    binaries = folder / "environment" / "bin"
    _run(str(binaries / "python"), "-m", "pip", "install", "--quiet", str(wheel))
    return binaries


def _run(*command: str, folder: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_coordinator_serves_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "hyperfl"), "coordinator", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            address = next(
                event for event in map(json.loads, process.stderr) if event["event"] == "listening"
            )
            url = f"http://{address['host']}:{address['port']}/readyz"
            with urllib.request.urlopen(url, timeout=_START_SECONDS) as response:
                assert json.load(response)["status"] == "ok"
        finally:
            process.terminate()
            process.wait(_START_SECONDS)
    assert (tmp_path / "hyperfl-data" / "hyperfl.db").exists()


def test_the_base_install_has_no_torch_and_says_how_to_get_it(
    installed: Path, tmp_path: Path
) -> None:
    packages = json.loads(_run(str(installed / "python"), "-m", "pip", "list", "--format", "json"))
    assert not {"torch", "torchvision", "timm"} & {package["name"] for package in packages}
    done = subprocess.run(
        [str(installed / "hyperfl"), "worker", "run", "--config", "worker.toml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: this command needs the worker's packages: pip install 'hyperfl[worker]'\n"
    )


def test_the_wheels_packages_win_over_the_users_folders(installed: Path, tmp_path: Path) -> None:
    for package in ("coordinator", "shared", "migrations"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError")
    (tmp_path / "worker.py").write_text("raise RuntimeError")
    done = subprocess.run(
        [str(installed / "hyperfl"), "coordinator", "migrate", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["before"] is None
