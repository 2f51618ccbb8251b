"""A database's schema, taken back and forth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic.config import Config
from sqlalchemy import Connection, create_engine, make_url

import migrations

DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}


@contextmanager
def connect(database_url: str) -> Iterator[Connection]:
    url = make_url(database_url)
    engine = create_engine(url.set(drivername=DRIVERS[url.get_backend_name()]))
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def go_to(database_url: str, step: Callable[[Config, str], None], revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with connect(database_url) as connection:
        config.attributes["connection"] = connection
        step(config, revision)
