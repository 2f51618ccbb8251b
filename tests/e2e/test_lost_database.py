"""PostgreSQL goes away for ten seconds: everybody is told to come again, and nothing is lost."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shared.rest.problems import MEDIA_TYPE
from tests.support.postgres import PostgresServer, create_database, postgres_server
from tests.support.two_sites import ROUNDS, TwoSites, two_sites

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_OUTAGE_SECONDS = 10.0
_PAUSE_SECONDS = 0.2
"""Between requests of every kind: far from the rates that are answered 429 on any machine."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Not the one of the other tests, which may run meanwhile."""
    with (
        tempfile.TemporaryDirectory(prefix="hyperfl-postgres-") as folder,
        postgres_server(Path(folder)) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def undisturbed_digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    with two_sites(tmp_path_factory.mktemp("undisturbed") / "site") as sites:
        for _ in range(ROUNDS):
            sites.play_round()
        return sites.finish()


def _check_come_again(answer: httpx.Response) -> None:
    assert answer.status_code == 503, f"{answer.url}: {answer.text}"
    assert answer.headers["Content-Type"] == MEDIA_TYPE
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["type"] == "urn:hyperfl:problem:unavailable"


def _events(sites: TwoSites) -> list[str]:
    lines = sites.coordinator.log_file.read_text().splitlines()
    return [json.loads(line)["event"] for line in lines if line.startswith("{")]


@pytest.mark.parametrize("fate", ["stopped", "frozen"])
def test_a_database_that_is_away_for_ten_seconds_costs_time_alone(
    server: PostgresServer, undisturbed_digest: str, tmp_path: Path, fate: str
) -> None:
    go_away, come_back = {
        "stopped": (server.stop, server.start),
        "frozen": (server.freeze, server.thaw),
    }[fate]
    with two_sites(
        tmp_path / "site",
        create_database(server.url),
        HYPERFL_DATABASE_POOL_SECONDS="2",
        HYPERFL_DATABASE_CONNECT_SECONDS="2",
        HYPERFL_DATABASE_TRANSACTION_SECONDS="2",
    ) as sites:
        sites.play_round()
        task = sites.take_task()
        go_away()
        try:
            ends_at = time.monotonic() + _OUTAGE_SECONDS
            while time.monotonic() < ends_at:
                for answer in sites.requests(task):
                    _check_come_again(answer)
                assert sites.http.get("/healthz").status_code == 200
                time.sleep(_PAUSE_SECONDS)
        finally:
            come_back()
        for _ in range(ROUNDS - 1):
            sites.play_round()
        assert sites.finish() == undisturbed_digest
        assert sites.http.get("/readyz").status_code == 200
        events = _events(sites)
        log = sites.coordinator.log_file.read_text()
    assert "Traceback" not in log
    assert 1 <= events.count("database does not answer") <= 2, "an outage is no flood"
    assert "database answers again" in events
