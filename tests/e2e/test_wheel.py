"""The wheel by itself: installed without torch, away from the source, it serves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import urllib.request
import venv
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.processes import PROJECT

pytestmark = pytest.mark.e2e

_START_SECONDS = 60
_PACKAGES = Path(sysconfig.get_path("purelib"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", str(folder), str(PROJECT)),
    )
    (wheel,) = folder.glob("hyperfl-*.whl")
    return wheel


@pytest.fixture(scope="module", params=["linked", pytest.param("resolved", marks=pytest.mark.slow)])
def installed(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The ``bin`` folder of an environment that holds the wheel's base install alone.

    What the wheel requires is linked from this environment, or resolved and installed by pip.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    options = []
    if request.param == "linked":
        options = ["--no-deps"]
        (metadata,) = distributions(name="hyperfl", path=[str(wheel)])
        for name in sorted(_top_level_names(metadata)):
            (packages / name).symlink_to(_PACKAGES / name)
    _pip(folder / "bin", "install", "--quiet", *options, str(wheel))
    return folder / "bin"


def _pip(binaries: Path, *arguments: str) -> str:
    return _run(sys.executable, "-m", "pip", "--python", str(binaries / "python"), *arguments)


def _top_level_names(wheel: Distribution) -> set[str]:
    """Files and folders of the packages that a wheel requires, without extras of its own."""
    names: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    left = _required(wheel, frozenset())
    while left:
        requirement = left.pop()
        package, extras = distribution(requirement.name), frozenset(requirement.extras)
        assert requirement.specifier.contains(package.version), f"{requirement} is not installed"
        if (package.name, extras) not in seen:
            seen.add((package.name, extras))
            left += _required(package, extras)
            names |= {file.parts[0] for file in package.files or ()}
    return {name for name in names if name not in ("..", "__pycache__")}


def _required(package: Distribution, extras: frozenset[str]) -> list[Requirement]:
    return [
        requirement
        for requirement in map(Requirement, package.requires or ())
        if requirement.marker is None
        or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


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
            url = f"http://{address['host']}:{address['port']}"
            with urllib.request.urlopen(f"{url}/readyz", timeout=_START_SECONDS) as response:
                assert json.load(response)["status"] == "ok"
            # The page with its templates and all that it needs.
            with urllib.request.urlopen(f"{url}/page/sign-in", timeout=_START_SECONDS) as response:
                assets = re.findall(r'"(/page/assets/[^"]+)"', response.read().decode())
            assert len(assets) >= 3
            for asset in assets:
                with urllib.request.urlopen(url + asset, timeout=_START_SECONDS) as response:
                    assert response.read()
        finally:
            process.terminate()
            process.wait(_START_SECONDS)
    assert (tmp_path / "hyperfl-data" / "hyperfl.db").exists()


def test_the_base_install_has_no_torch_and_says_how_to_get_it(
    installed: Path, tmp_path: Path
) -> None:
    packages = json.loads(_pip(installed, "list", "--format", "json"))
    names = {package["name"] for package in packages}
    assert not {"torch", "torchvision", "timm"} & names
    assert {"hyperfl", "fastapi"} <= names
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
