"""Databases of their own on the test server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from sqlalchemy import create_engine, make_url, text

_numbers = itertools.count()


def new_database(server_url: str) -> Iterator[str]:
    """An empty database, dropped at the end."""
    url = make_url(server_url).set(drivername="postgresql+psycopg")
    name = f"hyperfl_{next(_numbers)}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        yield url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()
