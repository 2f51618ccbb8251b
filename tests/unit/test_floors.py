"""The figures of docs/architecture.md: how many rooms there are, and how many arrows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("coordinator", "worker", "shared")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def layers() -> dict[str, list[str]]:
    """The floors by package, from the contracts."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts: list[dict[str, Any]] = project["tool"]["importlinter"]["contracts"]
    return {
        contract["containers"][0]: contract["layers"]
        for contract in contracts
        if contract["type"] == "layers"
    }


def arrows(graph: grimp.ImportGraph, package: str) -> set[tuple[str, str]]:
    """Rooms of a package, and the other rooms that they import from."""
    depth = len(package.split(".")) + 1
    found = set()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            rooms = tuple(".".join(name.split(".")[:depth]) for name in (importer, imported))
            if rooms[0] != rooms[1] and all(room.startswith(f"{package}.") for room in rooms):
                found.add((rooms[0], rooms[1]))
    return found


@pytest.mark.parametrize("package", [*PACKAGES, "worker.methods"])
def test_the_page_says_how_many_rooms_and_arrows_there_are(
    graph: grimp.ImportGraph, package: str
) -> None:
    rooms = graph.find_children(package)
    expected = (
        f"`{package.replace('.', '/')}/` has {len(rooms)} rooms on {len(layers()[package])} "
        f"floors, and {len(arrows(graph, package))} arrows between them."
    )
    page = re.sub(r"\s+", " ", (ROOT / "docs" / "architecture.md").read_text())
    assert expected in page
