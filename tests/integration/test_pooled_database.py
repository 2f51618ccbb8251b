"""A coordinator behind PgBouncer in transaction mode: each transaction may have another server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from coordinator.database.limits import DatabaseLimits
from coordinator.database.transactions import Database
from tests.support.coordinator import running_coordinator
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres import new_database
from tests.support.rounds import phases, send_updates
from tests.support.specifications import tiny_specification

pytestmark = pytest.mark.integration

ROUNDS = 6
"""More than the five times after which the driver would prepare a statement by itself."""


@pytest.fixture
def pooled_url(postgres_url: str) -> Iterator[str]:
    """A database of its own, by PgBouncer, which has two connections for it."""
    for url in new_database(postgres_url):
        with pgbouncer(postgres_url, server_connections=2) as port:
            yield f"postgres://postgres@127.0.0.1:{port}/{make_url(url).database}"


async def test_a_federation_runs_to_its_end(pooled_url: str, tmp_path: Path) -> None:
    specification = tiny_specification(rounds=ROUNDS, minimum_updates=2)
    async with running_coordinator(pooled_url, tmp_path) as coordinator:
        await coordinator.started(specification, "a", "b")
        for _ in range(ROUNDS):
            await send_updates(coordinator, specification, "a", "b")
            await coordinator.driver.step()
        assert await phases(coordinator) == ["committed"] * ROUNDS
        assert (await coordinator.show("tiny"))["state"] == "finished"


async def test_bounds_hold_within_a_transaction_and_do_not_outlast_it(pooled_url: str) -> None:
    hasty = Database(pooled_url, DatabaseLimits(transaction_seconds=0.5))
    patient = Database(pooled_url, DatabaseLimits(transaction_seconds=60.0))
    for database, shown in [(hasty, "500ms"), (patient, "1min"), (hasty, "500ms")]:
        async with database.writing(durable=False) as session:
            for bound in ("statement_timeout", "idle_in_transaction_session_timeout"):
                assert await session.scalar(text(f"SHOW {bound}")) == shown
            assert await session.scalar(text("SHOW synchronous_commit")) == "off"
        async with database.writing() as session:
            assert await session.scalar(text("SHOW synchronous_commit")) == "on"
    async with patient.reading() as session:
        assert await session.scalar(text("SELECT 1 FROM pg_sleep(0.6)")) == 1
    for database in (hasty, patient):
        await database.close()
