"""Folders of a user's own that are called as ours are: ours win, and the user's code is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import BARE_ENVIRONMENT
from tests.support.tiny_images import write_images

pytestmark = pytest.mark.e2e

_HYPERFL = Path(sys.executable).with_name("hyperfl")
_EXTRACTOR = """
import torch

def extractor():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8)), 8
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Has a package of the user's own, and every name that this project uses itself."""
    for package in ("radiology", "shared", "coordinator", "migrations"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
        (tmp_path / package / "models.py").write_text(_EXTRACTOR)
    (tmp_path / "worker.py").write_text("raise RuntimeError('the user’s worker.py was imported')")
    return tmp_path


def run(
    folder: Path, *arguments: str, command: Path = _HYPERFL, python_path: str = ""
) -> subprocess.CompletedProcess[str]:
    environment = BARE_ENVIRONMENT | {"HOME": str(folder)}
    if python_path:
        environment["PYTHONPATH"] = python_path
    return subprocess.run(
        [str(command), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=300,
        check=False,
    )


SPECIFY = ("worker", "specify", "own", "--num-classes", "10", "--image-shape", "1x8x8", "--model")


@pytest.mark.parametrize("python_path", ["", ".", "{folder}"])
def test_the_command_starts_whatever_lies_in_the_folder(folder: Path, python_path: str) -> None:
    done = run(folder, "--help", python_path=python_path.format(folder=folder))
    assert done.returncode == 0, done.stderr
    assert "federation" in done.stdout


def test_a_model_that_is_hidden_is_named_with_what_hides_it(folder: Path) -> None:
    done = run(folder, *SPECIFY, "shared.models:extractor", python_path=str(folder))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(
        f"; {folder / 'shared'} is hidden by the installed package 'shared': rename it\n"
    )


def test_a_site_brings_its_own_images_and_its_own_model_beside_folders_of_these_names(
    folder: Path,
) -> None:
    write_images(folder / "images", 3, side=8, train_examples=60, test_examples=30)
    done = run(
        folder,
        *("demo", "--rounds", "2", "--clients", "2", "--set", "batch_size=5", "--json"),
        *("--dataset", "image-folder", "--data-dir", "images", "--partition", "iid"),
        *("--model", "radiology.models:extractor", "--image-shape", "1x8x8"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["dataset"], result["model"]) == ("image-folder", "radiology.models:extractor")
    assert result["accuracy_final_mean"] > 90.0
