"""A client's number in its federation: one of its own, and always the same."""

from __future__ import annotations

import asyncio

import pytest
from alembic import command
from sqlalchemy import text

from coordinator.database.migrate import migrate
from coordinator.operations import clients
from tests.support.coordinator import RunningCoordinator
from tests.support.schema import connect, go_to
from tests.support.specifications import tiny_specification

pytestmark = pytest.mark.integration


async def number_of(coordinator: RunningCoordinator, client: str) -> int:
    task = await coordinator.task("tiny", client)
    number: int = task["client_number"]
    return number


async def test_numbers_are_of_first_invitations_and_stay(coordinator: RunningCoordinator) -> None:
    await coordinator.create(tiny_specification().model_copy(update={"name": "other"}))
    await coordinator.create(tiny_specification())
    await coordinator.enrol("other", "elsewhere")
    await coordinator.invite("tiny", "z-first")
    await coordinator.enrol("tiny", "b", "gone", "a")
    await clients.revoke(coordinator.context, "tiny", "gone")
    await coordinator.enrol("tiny", "z-first", "late")
    await coordinator.act("tiny", "start")
    await coordinator.driver.step()
    numbers = {"z-first": 0, "b": 1, "a": 3, "late": 4}
    assert {name: await number_of(coordinator, name) for name in numbers} == numbers
    await coordinator.restart()
    await coordinator.enrol("tiny", "b")  # invited anew: it has lost its credential
    assert {name: await number_of(coordinator, name) for name in numbers} == numbers


async def test_clients_that_are_invited_at_once_have_different_numbers(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())
    names = ["a", "b", "c", "d"]
    await asyncio.gather(*(coordinator.enrol("tiny", name) for name in names))
    await coordinator.act("tiny", "start")
    await coordinator.driver.step()
    assert sorted([await number_of(coordinator, name) for name in names]) == [0, 1, 2, 3]


def test_clients_of_before_are_numbered_in_their_order(empty_database_url: str) -> None:
    migrate(empty_database_url)
    go_to(empty_database_url, command.downgrade, "0008")
    federations = text(
        "INSERT INTO federations (id, name, specification, specification_digest, state, "
        "weights_version, failed_rounds, created_at) "
        "VALUES (:id, :name, '{}', '', 'draft', 0, 0, CURRENT_TIMESTAMP)"
    )
    invited = text(
        "INSERT INTO clients (federation_id, name, state, invited_at, joins, updates_recorded) "
        "VALUES (:federation, :name, 'invited', CURRENT_TIMESTAMP, 0, 0)"
    )
    with connect(empty_database_url) as connection:
        for key, name in ((1, "one"), (2, "two")):
            connection.execute(federations, {"id": key, "name": name})
        for federation, name in ((1, "b"), (2, "c"), (1, "a")):
            connection.execute(invited, {"federation": federation, "name": name})
    migrate(empty_database_url)
    with connect(empty_database_url) as connection:
        rows = connection.execute(text("SELECT name, number FROM clients ORDER BY name"))
        assert rows.all() == [("a", 1), ("b", 0), ("c", 0)]
