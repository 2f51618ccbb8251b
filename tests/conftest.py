from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from coordinator.database.migrate import migrate
from tests.support.postgres import create_database, new_database, postgres_server

# Speed is for benchmarks: on a busy machine an example may take any time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Commands that a test calls in this process log to its captured stderr, which closes."""
    _log_plainly()
    yield
    _log_plainly()


def _log_plainly() -> None:
    """structlog's defaults, but for tracebacks with every local: they take seconds to write."""
    structlog.reset_defaults()
    *processors, _ = structlog.get_config()["processors"]
    renderer = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(processors=[*processors, renderer])


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL server, one for the whole session."""
    # Not under pytest's own folder, which other sessions of the same user tidy up.
    with (
        tempfile.TemporaryDirectory(prefix="hyperfl-postgres-") as folder,
        postgres_server(Path(folder)) as server,
    ):
        yield server.url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the newest schema, to be copied."""
    file = tmp_path_factory.mktemp("template") / "hyperfl.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> str:
    """A database with the newest schema, to be copied."""
    url = create_database(postgres_url)
    migrate(url)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of each kind with the newest schema and no rows."""
    if request.param == "sqlite":
        file = tmp_path / "hyperfl.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), file)
        yield f"sqlite:///{file}"
        return
    template = request.getfixturevalue("migrated_postgres")
    yield from new_database(request.getfixturevalue("postgres_url"), template)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of each kind without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'hyperfl.db'}"
        return
    yield from new_database(request.getfixturevalue("postgres_url"))
