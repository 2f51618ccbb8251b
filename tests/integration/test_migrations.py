"""The schema from nothing to the newest, however many start at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.util.exc import CommandError
from sqlalchemy import Connection, create_engine, inspect, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from typer.testing import CliRunner

from coordinator.commands.coordinator import coordinator
from coordinator.migrate import NewerSchemaError, migrate
from coordinator.tables import Base
from tests.support.postgres import new_database

pytestmark = pytest.mark.integration

DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}


@contextmanager
def connect(database_url: str) -> Iterator[Connection]:
    url = make_url(database_url)
    engine = create_engine(url.set(drivername=DRIVERS[url.get_backend_name()]))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


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
    command = [sys.executable, "-m", "coordinator", "coordinator", "migrate"]
    processes = [
        subprocess.Popen(
            [*command, "--database-url", database_url],
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
        with connect(database_url) as connection:
            others = connection.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        assert others == 0, refused
