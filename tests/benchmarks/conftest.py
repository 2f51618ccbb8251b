from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.measurements import Measurement, record, table

Report = Callable[[str, list[Measurement]], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data-dir", type=Path, help="folder with Fashion-MNIST's idx files")
    parser.addoption("--record", type=Path, help="page whose measured parts are replaced")


@pytest.fixture
def report(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Report:
    """Prints a group's measurements, and writes them down if a page was named."""

    def write(group: str, measurements: list[Measurement]) -> None:
        with capsys.disabled():
            print(f"\n\n{group}\n{table(measurements)}")
        page: Path | None = request.config.getoption("--record")
        if page is not None:
            record(page, group, measurements)

    return write


@pytest.fixture
def fashion_mnist(request: pytest.FixtureRequest) -> Path:
    """The data set's folder."""
    folder: Path | None = request.config.getoption("--data-dir")
    if folder is None:
        pytest.skip("needs Fashion-MNIST: make bench DATA_DIR=FOLDER")
    return folder
