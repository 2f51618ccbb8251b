"""A transaction that is cancelled within a statement leaves no lock, whoever still looks at it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import event, text

from coordinator.database.limits import DatabaseLimits
from coordinator.database.transactions import Database

pytestmark = pytest.mark.integration


async def test_a_cancelled_write_leaves_the_database_unlocked(database_url: str) -> None:
    database = Database(database_url)
    other = Database(database_url, DatabaseLimits(transaction_seconds=1.0))
    executing = asyncio.Event()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE"):
            executing.set()  # whoever waits goes on when the statement is on its way

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    async with database.writing() as session:
        await session.execute(text("CREATE TABLE numbers (number INTEGER)"))
        await session.execute(text("INSERT INTO numbers VALUES (1), (2)"))

    async def write() -> None:
        async with database.writing() as session:
            await session.execute(text("UPDATE numbers SET number = 3 RETURNING number"))

    writing = asyncio.create_task(write())
    await executing.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError) as held:  # its frames hold the statement
        await writing
    await database.close()
    async with other.writing() as session:
        await session.execute(text("DELETE FROM numbers WHERE number < 3"))
        left = await session.scalar(text("SELECT count(*) FROM numbers"))
    await other.close()
    assert left == 0, "the cancelled change was kept"
    assert held.tb is not None
