from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.support.postgres import new_database, postgres_server


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Commands that a test calls in this process log to its captured stderr, which closes."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL server, one for the whole session."""
    # Not under pytest's own folder, which other sessions of the same user tidy up.
    with (
        tempfile.TemporaryDirectory(prefix="hyperfl-postgres-") as folder,
        postgres_server(Path(folder)) as server,
    ):
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'hyperfl.db'}"
        return
    yield from new_database(request.getfixturevalue("postgres_url"))
