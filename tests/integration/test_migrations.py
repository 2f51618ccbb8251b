"""The schema from nothing to the newest, however many start at once."""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.util.exc import CommandError
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError, OperationalError
from typer.testing import CliRunner

from coordinator.commands.coordinator import coordinator
from coordinator.database.migrate import migrate
from coordinator.errors import NewerSchemaError
from coordinator.store.tables import Base
from shared.terminal.command_line import command_line
from tests.support.postgres import new_database
from tests.support.schema import connect, go_to

pytestmark = pytest.mark.integration


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    return empty_database_url


def table_names(database_url: str) -> set[str]:
    with connect(database_url) as connection:
        return set(inspect(connection).get_table_names())


def revisions(database_url: str) -> list[str]:
    with connect(database_url) as connection:
        return list(connection.scalars(text("SELECT version_num FROM alembic_version")))


def test_the_migrations_give_the_schema_that_the_code_declares(database_url: str) -> None:
    before, after = migrate(database_url)
    assert before is None
    assert revisions(database_url) == [after]
    assert table_names(database_url) == {*Base.metadata.tables, "alembic_version"}
    with connect(database_url) as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_a_difference_between_schema_and_code_is_noticed(database_url: str) -> None:
    migrate(database_url)
    with connect(database_url) as connection:
        connection.execute(text("DROP INDEX uq_rounds_live"))
        connection.execute(text("DROP TABLE updates"))
    with connect(database_url) as connection:
        found = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert {difference[0] for difference in found} == {"add_index", "add_table"}


def test_only_one_round_of_a_federation_can_be_live(database_url: str) -> None:
    migrate(database_url)
    with connect(database_url) as connection:
        [index] = [
            index
            for index in inspect(connection).get_indexes("rounds")
            if index["name"] == "uq_rounds_live"
        ]
    assert index["unique"]
    assert index["column_names"] == ["federation_id"]
    [condition] = [v for k, v in index["dialect_options"].items() if k.endswith("_where")]
    for phase in ("open", "aggregating"):
        assert f"'{phase}'" in str(condition)


def test_migrating_again_changes_nothing(database_url: str) -> None:
    _, newest = migrate(database_url)
    with connect(database_url) as connection:
        connection.execute(
            text("INSERT INTO blobs (size_bytes, created_at) VALUES (5, CURRENT_TIMESTAMP)")
        )
    assert migrate(database_url) == (newest, newest)
    with connect(database_url) as connection:
        assert connection.scalar(text("SELECT size_bytes FROM blobs")) == 5


def test_replicas_that_start_at_once_migrate_once(database_url: str) -> None:
    barrier = Barrier(4)

    def start(_: int) -> tuple[str | None, str]:
        barrier.wait()
        return migrate(database_url)

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(start, range(4)))
    newest = results[0][1]
    assert sorted(results, key=str) == sorted([(None, newest), *[(newest, newest)] * 3], key=str)
    assert revisions(database_url) == [newest]


def test_processes_that_start_at_once_both_succeed(database_url: str) -> None:
    migrate_command = command_line("coordinator", "migrate", "--database-url", database_url)
    processes = [
        subprocess.Popen(
            migrate_command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    [newest] = revisions(database_url)
    outputs = sorted(stdout for stdout, _ in results)
    assert outputs == [f"schema {newest} -> {newest}\n", f"schema none -> {newest}\n"]


def test_a_migration_that_another_never_ends_is_not_waited_for_without_end(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upgrade(*_: object) -> None:
        migrate(database_url, wait_seconds=0.1)  # while this one holds the lock

    with monkeypatch.context() as patched:
        patched.setattr(command, "upgrade", upgrade)
        with pytest.raises((TimeoutError, OperationalError)) as ours:
            migrate(database_url)
    assert "another coordinator migrates" in str(ours.value) or "lock timeout" in str(ours.value)
    assert table_names(database_url) == set()
    before, after = migrate(database_url)
    assert (before, revisions(database_url)) == (None, [after])


@pytest.mark.parametrize("revision", ["9999", "0001x"])
def test_a_schema_of_newer_code_is_refused_and_left_alone(database_url: str, revision: str) -> None:
    migrate(database_url)
    with connect(database_url) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})
        connection.execute(text("DROP TABLE updates"))
    with pytest.raises(NewerSchemaError, match=f"has schema {revision}, which this version"):
        migrate(database_url)
    assert revisions(database_url) == [revision]
    assert "updates" not in table_names(database_url)
    result = CliRunner().invoke(coordinator, ["migrate", "--database-url", database_url])
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert line.startswith(f"error: the database has schema {revision}")


def test_a_migration_that_fails_leaves_nothing_behind(database_url: str) -> None:
    with connect(database_url) as connection:
        connection.execute(text("CREATE TABLE weights (stranger INTEGER)"))
    with pytest.raises(DBAPIError):
        migrate(database_url)
    assert table_names(database_url) <= {"weights", "alembic_version"}
    with connect(database_url) as connection:
        connection.execute(text("DROP TABLE weights"))
    assert migrate(database_url)[0] is None


def test_a_database_with_two_revisions_is_refused(database_url: str) -> None:
    migrate(database_url)
    with connect(database_url) as connection:
        connection.execute(text("INSERT INTO alembic_version (version_num) VALUES ('9999')"))
    with pytest.raises((NewerSchemaError, CommandError)):
        migrate(database_url)


def test_a_refused_migration_holds_no_connection(postgres_url: str) -> None:
    with contextmanager(new_database)(postgres_url) as database_url:
        migrate(database_url)
        with connect(database_url) as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(NewerSchemaError) as refused:
            migrate(database_url)
        others = text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        give_up_at = time.monotonic() + 60
        with connect(database_url) as connection:
            while connection.scalar(others):  # the server notices a little later who has gone
                assert time.monotonic() < give_up_at, refused
                time.sleep(0.05)
                # A transaction sees who is there as it was when it first asked.
                connection.execute(text("SELECT pg_stat_clear_snapshot()"))


def describe(connection: Connection) -> dict[str, Any]:
    """Everything of the schema that a migration could forget to bring back."""
    found = inspect(connection)
    catalogue = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY name",
        "postgresql": "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgname",
    }
    tables = {
        table: [
            sorted((one["name"], str(one["type"]), one["nullable"]) for one in columns),
            *(
                sorted(json.dumps(one, sort_keys=True, default=str) for one in described)
                for described in (
                    found.get_indexes(table),
                    found.get_unique_constraints(table),
                    found.get_foreign_keys(table),
                )
            ),
        ]
        for table in found.get_table_names()
        for columns in [found.get_columns(table)]
    }
    triggers = connection.scalars(text(catalogue[connection.dialect.name])).all()
    return {"tables": tables, "triggers": triggers}


def test_every_migration_can_be_taken_back_and_applied_again(database_url: str) -> None:
    """From the newest to nothing, each step taken back twice, with rows that have to survive."""
    _, newest = migrate(database_url)
    kept = text("SELECT data FROM blob_chunks WHERE blob_id = 7")
    with connect(database_url) as connection:
        schema = describe(connection)
        connection.execute(
            text("INSERT INTO blobs (id, size_bytes, created_at) VALUES (7, 5, CURRENT_TIMESTAMP)")
        )
        insert = text("INSERT INTO blob_chunks (blob_id, position, data) VALUES (7, 0, :data)")
        connection.execute(insert, {"data": b"bytes"})
    while (at := revisions(database_url)) != ["0001"]:
        go_to(database_url, command.downgrade, "-1")
        assert revisions(database_url) != at
        go_to(database_url, command.upgrade, "+1")
        assert revisions(database_url) == at
        go_to(database_url, command.downgrade, "-1")
        with connect(database_url) as connection:
            assert connection.scalar(kept) == b"bytes"
    assert migrate(database_url) == ("0001", newest)
    with connect(database_url) as connection:
        assert describe(connection) == schema
        assert connection.scalar(kept) == b"bytes"
    go_to(database_url, command.downgrade, "base")
    assert table_names(database_url) == {"alembic_version"}
    assert migrate(database_url) == (None, newest)
    with connect(database_url) as connection:
        assert describe(connection) == schema
