"""The coordinator's page over a thousand clients and as many rounds, all in each round."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from coordinator.context import Context
from coordinator.database.transactions import Database
from coordinator.rounds.reporter import Reporter
from tests.benchmarks.conftest import Report
from tests.benchmarks.measurements import Measurement
from tests.support.coordinator import RunningCoordinator, running_coordinator
from tests.support.page import Browser, signed_in
from tests.support.page_federation import Seeded, seed

pytestmark = pytest.mark.benchmark

_CLIENTS = _ROUNDS = 1000
_LOOKS = 9
_HOSPITALS = "/page/federations/hospitals"
_PAGES = {
    "federations": "/",
    "one federation": _HOSPITALS,
    "its last clients": f"{_HOSPITALS}?clients=25",
    "clients": f"{_HOSPITALS}/clients",
    "rounds": f"{_HOSPITALS}/rounds",
    "the open round": f"{_HOSPITALS}/rounds/{_ROUNDS + 1}",
    "weights": f"{_HOSPITALS}/weights",
    "audit": "/page/audit",
}


async def test_many_clients_and_rounds(tmp_path: Path, report: Report) -> None:
    url = f"sqlite:///{tmp_path / 'hyperfl.db'}"
    limits = {"requests_per_second_per_token": 1e6}
    async with running_coordinator(url, tmp_path, **limits) as coordinator:
        await seed(
            coordinator.context, Seeded(clients=_CLIENTS, rounds=_ROUNDS, planned=2 * _ROUNDS)
        )
        started = time.perf_counter()
        await _report_all(coordinator.context)
        reporting = time.perf_counter() - started
        browser = await signed_in(coordinator)
        milliseconds = {what: await _look(browser, path) for what, path in _PAGES.items()}
        assert await _queries(coordinator, browser) <= 12
    report(
        "page, 1,000 clients and 1,000 rounds",
        [
            *(Measurement(what, value, "ms", 300.0) for what, value in milliseconds.items()),
            Measurement("a report of one round", 1000 * reporting / _ROUNDS, "ms"),
        ],
    )


async def _report_all(context: Context) -> None:
    """As the driver does, which has a second between any twenty of them."""
    reporter = Reporter(context)
    for _ in range(_ROUNDS // 20 + 1):
        await reporter.report()
        await asyncio.sleep(0)


async def _look(browser: Browser, path: str) -> float:
    """The server's time for one answer, in milliseconds: the shortest, which nothing disturbed."""
    taken = []
    for _ in range(_LOOKS):
        started = time.perf_counter()
        await browser.text(path)
        taken.append(1000 * (time.perf_counter() - started))
    return min(taken)


async def _queries(coordinator: RunningCoordinator, browser: Browser) -> int:
    """Transactions of the page that asks most."""
    database: Database = coordinator.context.database
    before = database.activity.begun
    await browser.text(_HOSPITALS)
    return database.activity.begun - before
