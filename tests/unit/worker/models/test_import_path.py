"""What a user names by import path: found where it lies, or named with what is in its way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from worker.models.import_path import load_by_import_path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_the_current_folder_is_looked_in(here: Path) -> None:
    (here / "cardiology_models.py").write_text("answer = 42")
    assert load_by_import_path("cardiology_models:answer") == 42
    assert sys.path[-1] == str(here), "what lies here would take an installed module's place"


def test_a_module_of_the_current_folder_takes_no_installed_ones_place(here: Path) -> None:
    (here / "torch.py").write_text("answer = 42")
    with pytest.raises(ValueError, match=r"module .torch. has no .answer.; .*torch\.py is hidden"):
        load_by_import_path("torch:answer")


@pytest.mark.parametrize("name", ["shared", "worker"])
def test_a_folder_that_an_installed_package_hides_is_named(here: Path, name: str) -> None:
    (here / name).mkdir()
    expected = f"{here / name} is hidden by the installed package '{name}': rename it"
    with pytest.raises(ValueError, match=f"cannot import '{name}.own' .*{expected}"):
        load_by_import_path(f"{name}.own:build")


def test_nothing_is_said_to_be_hidden_where_nothing_is(here: Path) -> None:
    with pytest.raises(ValueError, match="must be the current one, or on the PYTHONPATH") as error:
        load_by_import_path("no_such_package.models:build")
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize("path", ["", "module", ":name", "module:"])
def test_what_is_no_import_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is not an import path"):
        load_by_import_path(path)
