from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ServingCoordinator, serving_coordinator
from tests.support.tiny_images import write_tiny_images


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", type=Path, help="folder that pictures of the page go to")


@pytest.fixture(scope="session")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingCoordinator]:
    """One coordinator for all tests that need no other; each uses a federation of its own."""
    with serving_coordinator(tmp_path_factory.mktemp("site")) as serving:
        yield serving


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds each data set in a folder of its name, as ``hyperfl experiment --data-dir`` wants."""
    root = tmp_path_factory.mktemp("data")
    write_tiny_images(root / "image-folder")
    return root


@pytest.fixture(scope="session")
def images(data_root: Path) -> Path:
    """A small ``image-folder`` of ten classes."""
    return data_root / "image-folder"
