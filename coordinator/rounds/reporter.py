"""Writes down what closed rounds came to, so that nobody has to count over all clients again."""

from __future__ import annotations

import asyncio

from coordinator.context import Context
from coordinator.database.outages import isolated
from coordinator.rules.round_report import report_of
from coordinator.store import round_reports as store

_AT_A_TIME = 20
"""Of a step. Rounds that were closed before there were reports get theirs by and by."""


class Reporter:
    """Every replica has one; of two reports of a round, which are alike, the first stays."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def report(self) -> None:
        """Writes the reports that are missing, some at a time."""
        database = self._context.database
        with isolated("rounds could not be reported", outages_too=True):
            async with database.reading() as session:
                unreported = await store.list_unreported(session, _AT_A_TIME)
            for one in unreported:
                async with database.reading() as session:
                    parts = await store.parts_of(session, one.id)
                report = await asyncio.to_thread(report_of, parts, one.metrics)
                async with database.writing(durable=False) as session:
                    await store.write(session, one.id, report.model_dump_json())
