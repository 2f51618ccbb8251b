"""What a user names by import path: found where it lies, or named with what is in its way."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from worker.errors import ImportNotAllowed
from worker.models.allowed_imports import AllowedImports
from worker.models.import_path import load_by_import_path

ALLOWED = AllowedImports(
    ("cardiology_models:answer", "torch", "shared", "worker", "no_such_package", "own_code")
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_the_current_folder_is_looked_in(here: Path) -> None:
    (here / "cardiology_models.py").write_text("answer = 42")
    assert load_by_import_path("cardiology_models:answer", ALLOWED) == 42
    assert sys.path[-1] == str(here), "what lies here would take an installed module's place"


def test_a_module_of_the_current_folder_takes_no_installed_ones_place(here: Path) -> None:
    (here / "torch.py").write_text("answer = 42")
    with pytest.raises(ValueError, match=r"module .torch. has no .answer.; .*torch\.py is hidden"):
        load_by_import_path("torch:answer", ALLOWED)


@pytest.mark.parametrize("name", ["shared", "worker"])
def test_a_folder_that_an_installed_package_hides_is_named(here: Path, name: str) -> None:
    (here / name).mkdir()
    expected = f"{here / name} is hidden by the installed package '{name}': rename it"
    with pytest.raises(ValueError, match=f"cannot import '{name}.own' .*{expected}"):
        load_by_import_path(f"{name}.own:build", ALLOWED)


def test_nothing_is_said_to_be_hidden_where_nothing_is(here: Path) -> None:
    with pytest.raises(ValueError, match="must be the current one, or on the PYTHONPATH") as error:
        load_by_import_path("no_such_package.models:build", ALLOWED)
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize("path", ["", "module", ":name", "module:"])
def test_what_is_no_import_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is not an import path"):
        load_by_import_path(path, ALLOWED)


def test_what_is_not_allowed_is_not_even_imported(here: Path) -> None:
    (here / "trap.py").write_text("raise AssertionError('it was imported')")
    with pytest.raises(ImportNotAllowed, match=r'worker.toml: allowed_imports = \["trap:build"\]'):
        load_by_import_path("trap:build", AllowedImports())


def test_a_package_allows_what_is_defined_in_it_and_a_name_what_it_names(here: Path) -> None:
    (here / "own_code").mkdir()
    (here / "own_code" / "parts.py").write_text("from os import abort\ndef build(): return 42")
    assert load_by_import_path("own_code.parts:build", ALLOWED)() == 42
    with pytest.raises(ValueError, match=r"is defined in \w+, which the site has not allowed"):
        load_by_import_path("own_code.parts:abort", ALLOWED)
    by_name = AllowedImports(("own_code.parts:abort",))
    assert load_by_import_path("own_code.parts:abort", by_name) is os.abort


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import sys; sys.exit()", "it asked to end the process, with exit code 0"),
        ("import sys; sys.exit('done')", "it asked to end the process, with exit code done"),
        ("{}['scanner']", "KeyError: 'scanner'"),
    ],
)
def test_a_module_that_ends_or_fails_while_it_is_imported_is_one_line(
    here: Path, code: str, what: str
) -> None:
    (here / "ending_module.py").write_text(code)
    with pytest.raises(ValueError, match=re.escape(f"failed: {what}")):
        load_by_import_path("ending_module:build", AllowedImports(("ending_module",)))
