"""Which database a URL names, as the settings take it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from coordinator.database.transactions import Database
from coordinator.settings import CoordinatorSettings


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://hyperfl:p%40ss@db:5433/training?sslmode=require",
        "postgres://hyperfl:p%40ss@db:5433/training?sslmode=require",
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


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:secret@word@db/d", "write it as %40"),
        ("postgresql://u:sec@ret:word@db/d", "write @ : / ? # %"),
        ("postgresql://u:secret@db:54x/d", "write @ : / ? # %"),
        ("secret", "not a URL such as postgresql://"),
        ("mysql://u:secret@db/d", "mysql is not one of sqlite, postgresql"),
        ("postgresql://u:secret@db/d?sslmode=on", "sslmode is on, and not one of disable, allow"),
        ("postgresql://u:secret@db/d?sslmodus=on", 'invalid connection option "sslmodus"'),
    ],
)
def test_what_is_no_database_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CoordinatorSettings(database_url=url)
    (error,) = caught.value.errors(include_url=False, include_input=False, include_context=False)
    assert words in error["msg"]
    for part in ("secret", "ret", "word@"):
        assert part not in error["msg"]
