"""A coordinator under the updates of many clients, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.conftest import Report
from tests.benchmarks.load_generator import Load, run_load
from tests.benchmarks.measurements import Measurement, peak_memory_mb
from tests.support.postgres import new_database
from tests.support.processes import serving_coordinator

pytestmark = pytest.mark.benchmark

_NUMBERS = (100, 300, 1000)


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def database(request: pytest.FixtureRequest) -> Iterator[tuple[str, str | None]]:
    """The kind, and the address if the coordinator does not make its own."""
    if request.param == "SQLite":
        yield "SQLite", None
        return
    for url in new_database(request.getfixturevalue("postgres_url")):
        yield "PostgreSQL", url


def test_many_clients(database: tuple[str, str | None], report: Report, tmp_path: Path) -> None:
    kind, url = database
    loads: dict[int, tuple[Load, float]] = {}
    for number in _NUMBERS:
        folder = tmp_path / str(number)
        folder.mkdir()
        options = () if url is None else ("--database-url", url)
        with serving_coordinator(folder, *options) as coordinator:
            token_file = coordinator.admin_token_file
            if not token_file.exists():  # the database knows it from the coordinator before
                token_file = tmp_path / str(_NUMBERS[0]) / "coordinator" / "admin-token"
            load = asyncio.run(
                run_load(coordinator.url, token_file.read_text().strip(), f"f{number}", number)
            )
            loads[number] = (load, peak_memory_mb(coordinator.process.process.pid))
    few, many = loads[_NUMBERS[0]], loads[_NUMBERS[-1]]
    report(
        f"load, {kind}",
        [
            *(
                measurement
                for number, (load, memory) in loads.items()
                for measurement in (
                    Measurement(f"{number} clients: updates received", number / load.sending, "/s"),
                    Measurement(f"{number} clients: aggregation", load.aggregating, "s"),
                    Measurement(f"{number} clients: coordinator's peak memory", memory, "MB", 400),
                )
            ),
            Measurement("memory, 1,000 over 100 clients", many[1] / few[1], "times", 1.1),
            Measurement("an update encoded, sent and recorded", 1000 * few[0].update, "ms", 50.0),
            Measurement("an update's size", few[0].update_bytes / 1e6, "MB", 1.0),
        ],
    )
