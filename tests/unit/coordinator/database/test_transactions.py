"""Which database a URL names, and the bounds that it is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from coordinator.database.transactions import Database, connect_arguments
from coordinator.settings import CoordinatorSettings


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://hyperfl:p%40ss@db:5433/training?sslmode=require",
        "postgresql+psycopg://hyperfl:p%40ss@db:5433/training?sslmode=require",
        "postgresql+asyncpg://hyperfl:p%40ss@db:5433/training?sslmode=require",
    ],
)
def test_every_form_of_a_postgresql_url_names_the_same_database(url: str) -> None:
    database = Database(CoordinatorSettings(database_url=url).effective_database_url)
    opened = database.engine.url
    assert not database.is_sqlite
    assert opened.drivername == "postgresql+psycopg"
    assert (opened.username, opened.password) == ("hyperfl", "p@ss")
    assert (opened.host, opened.port, opened.database) == ("db", 5433, "training")
    assert opened.query == {"sslmode": "require"}


def test_an_absolute_sqlite_path_is_kept() -> None:
    database = Database(CoordinatorSettings(data_dir=Path("/srv/fl")).effective_database_url)
    assert database.is_sqlite
    assert database.engine.url.database == "/srv/fl/hyperfl.db"


def test_a_postgresql_is_told_its_bounds_and_the_urls_own_options_prevail() -> None:
    limits = CoordinatorSettings(database_transaction_seconds=1.5).database_limits
    url = make_url("postgresql://host/hyperfl?options=-c%20statement_timeout%3D9")
    arguments = connect_arguments(url, limits)
    assert arguments["connect_timeout"] == 5
    assert arguments["options"].split("-c ")[1:] == [
        "statement_timeout=1500 ",
        "idle_in_transaction_session_timeout=1500 ",
        "statement_timeout=9",
    ]
