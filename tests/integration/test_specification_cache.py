"""Recorded specifications are parsed once: lists and rounds of many federations stay cheap."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from coordinator.context import SpecificationOutline, Specifications
from coordinator.store import federations as federation_store
from coordinator.store.tables import FederationRow
from shared.federation.specification import FederationSpecification
from tests.support.coordinator import RunningCoordinator
from tests.support.specifications import tiny_specification
from tests.support.statements import statements

pytestmark = pytest.mark.integration

NAMES = ("tiny-1", "tiny-2", "tiny-3")


class WatchedSpecifications(Specifications):
    """Notes the federation of every specification that is parsed, in order."""

    def __init__(self, **options: int) -> None:
        super().__init__(**options, parse=self._note)
        self.names: list[str] = []
        self.on_parse: Callable[[], None] = lambda: None

    def _note(self, document: dict[str, Any]) -> FederationSpecification:
        self.names.append(document["name"])
        self.on_parse()
        return FederationSpecification.of_record(document)


async def restarted(coordinator: RunningCoordinator) -> WatchedSpecifications:
    """What a coordinator that starts again has parsed."""
    await coordinator.restart()
    watched = WatchedSpecifications()
    coordinator.app.state.context = replace(coordinator.context, specifications=watched)
    return watched


async def with_federations(coordinator: RunningCoordinator) -> list[FederationRow]:
    for name in NAMES:
        await coordinator.create(tiny_specification(name))
    async with coordinator.context.database.reading() as session:
        return [await federation_store.find_by_name(session, name) for name in NAMES]


async def listed(coordinator: RunningCoordinator) -> tuple[list[str], int]:
    """The federations' names, and the number of queries that look at federations."""
    with statements(coordinator.context.database) as sent:
        answer = await coordinator.http.get("/v1/federations", headers=coordinator.admin)
    assert answer.status_code == 200, answer.text
    assert {one["method"] for one in answer.json()} == {"hyperfl"}
    of_token = [statement for statement in sent if "tokens.digest" in statement]
    rest = [one for one in sent if one.startswith("SELECT") and one not in of_token]
    assert len(of_token) == 1
    assert all("federations" in statement for statement in rest)
    return [one["name"] for one in answer.json()], len(rest)


async def test_federations_that_were_seen_are_listed_with_one_query_and_nothing_parsed(
    coordinator: RunningCoordinator,
) -> None:
    await with_federations(coordinator)
    parsed = await restarted(coordinator)
    assert await listed(coordinator) == (list(NAMES), 2), "and another for what was never seen"
    assert parsed.names == list(NAMES)
    for _ in range(2):
        assert await listed(coordinator) == (list(NAMES), 1)
    assert parsed.names == list(NAMES)
    await coordinator.create(tiny_specification("tiny-4"))
    parsed.names.clear()
    assert await listed(coordinator) == ([*NAMES, "tiny-4"], 1), "seen when it was created"
    assert parsed.names == []


async def test_a_list_parses_off_the_event_loop_with_no_session_open(
    coordinator: RunningCoordinator,
) -> None:
    await with_federations(coordinator)
    parsed = await restarted(coordinator)
    pool: Any = coordinator.context.database.engine.pool
    seen: list[tuple[bool, int]] = []
    parsed.on_parse = lambda: seen.append(
        (threading.current_thread() is threading.main_thread(), pool.checkedout())
    )
    await listed(coordinator)
    assert seen == [(False, 0)] * len(NAMES)


async def test_specifications_that_were_used_least_lately_are_forgotten(
    coordinator: RunningCoordinator,
) -> None:
    first, second, third = await with_federations(coordinator)
    kept = WatchedSpecifications(kept=2)
    for federation in (first, second, first, third, first):
        assert kept.of(federation).name == federation.name
    assert kept.names == [*NAMES], "the first was used last, and so was kept"
    kept.of(second)
    assert kept.names == [*NAMES, "tiny-2"]


async def test_outlines_outlast_the_specifications_that_they_are_of(
    coordinator: RunningCoordinator,
) -> None:
    federations = await with_federations(coordinator)
    kept = WatchedSpecifications(kept=1)
    outline = SpecificationOutline("hyperfl", "tests.support.models:tiny", rounds=2)
    for _ in range(2):
        for federation in federations:
            assert kept.outline_of(federation) == outline
            assert kept.knows(federation.id)
    assert kept.names == list(NAMES)
