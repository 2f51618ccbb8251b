"""A disk fills up in a round: the coordinator answers 503 by name, the worker ends by name.

Neither stores anything by half, and both go on when there is room.
"""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from shared.rest.problems import MEDIA_TYPE
from tests.support.two_sites import FEDERATION, ROUNDS, WORKER, TwoSites, two_sites
from worker.demo.processes import run_in_background
from worker.site.private_state import FILE_NAME

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_DISK = "32m"
_LEFT_BYTES = 5 << 18
"""Enough for the first chunk of an update, and not for the second."""
_REFUSALS = 5
_LOG_BYTES = 64 << 10
"""Room for a worker's log, and for no update."""
_PATIENCE_SECONDS = 60.0


@contextmanager
def _limited_files(sites: TwoSites) -> Iterator[None]:
    """No file of the coordinator may grow by more: works for every user, everywhere on Linux."""
    database = sites.coordinator.log_file.parent / "coordinator" / "hyperfl.db"
    largest = max(file.stat().st_size for file in (database, Path(f"{database}-wal")))
    process = psutil.Process(sites.coordinator.process.pid)
    before = process.rlimit(resource.RLIMIT_FSIZE)
    process.rlimit(resource.RLIMIT_FSIZE, (largest + _LEFT_BYTES, before[1]))
    yield
    process.rlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def _filled_disk(sites: TwoSites) -> Iterator[None]:
    """Another's file takes what is left of the disk."""
    ballast = sites.coordinator.log_file.parent / "coordinator" / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - _LEFT_BYTES))
    yield
    ballast.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; only root may mount it."""
    folder = tmp_path / "site" / "coordinator"
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "hyperfl-test", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs here ({mounted.stderr.strip()}); the limit on files stands in")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def undisturbed_digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    with two_sites(tmp_path_factory.mktemp("undisturbed") / "site") as sites:
        for _ in range(ROUNDS):
            sites.play_round()
        return sites.finish()


def _check_no_room(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["Content-Type"] == MEDIA_TYPE
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["type"] == "urn:hyperfl:problem:storage-full"


def _count(database: Path, query: str) -> int:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        count: int = connection.execute(query).fetchone()[0]
    connection.close()
    return count


def _run_out_of_room(
    folder: Path, no_room: Callable[[TwoSites], AbstractContextManager[None]], expected_digest: str
) -> None:
    database = folder / "coordinator" / "hyperfl.db"
    with two_sites(folder) as sites:
        sites.play_round()
        task = sites.take_task()
        recorded = _count(database, "SELECT count(*) FROM updates")
        with no_room(sites):
            for _ in range(_REFUSALS):
                _check_no_room(sites.send_update(task))
                assert sites.http.get("/readyz").status_code == 200, "what is stored can be read"
                time.sleep(0.2)
            assert _count(database, "SELECT count(*) FROM updates") - recorded in (0, 1), (
                "the worker's, if it came before"
            )
        for _ in range(ROUNDS - 1):
            sites.play_round()
        assert sites.finish() == expected_digest
        log = sites.coordinator.log_file.read_text()
    assert _count(database, "SELECT count(*) FROM blobs WHERE digest IS NULL") == 0
    assert "Traceback" not in log
    assert 1 <= log.count("database has no room left") <= 2, "a full disk is no flood"
    assert "database has room again" in log


def test_files_that_may_not_grow_cost_time_alone(tmp_path: Path, undisturbed_digest: str) -> None:
    _run_out_of_room(tmp_path / "site", _limited_files, undisturbed_digest)


def test_a_full_disk_costs_time_alone(
    tmp_path: Path, small_disk: Path, undisturbed_digest: str
) -> None:
    _run_out_of_room(tmp_path / "site", _filled_disk, undisturbed_digest)


def _act(sites: TwoSites, action: str) -> None:
    answer = sites.http.patch(
        f"/v1/federations/{FEDERATION}", json={"action": action}, headers=dict(sites.admin)
    )
    assert answer.status_code == 200, answer.text


def test_a_workers_full_disk_costs_it_a_round(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    state = folder / "state" / WORKER / FILE_NAME
    with two_sites(folder) as sites:
        sites.worker.wait_for_event("update sent", _PATIENCE_SECONDS)
        task = sites.take_task()
        # Paused, so that the next round opens when there is no room.
        _act(sites, "pause")
        assert sites.send_update(task).status_code == 201
        saved = state.read_bytes()
        process = psutil.Process(sites.worker.process.pid)
        room = max(sites.worker.log_file.stat().st_size, len(saved)) + _LOG_BYTES
        process.rlimit(resource.RLIMIT_FSIZE, (room, room))
        _act(sites, "resume")
        assert sites.worker.process.wait(_PATIENCE_SECONDS) == 1
        assert f"File too large: '{folder}/state/{WORKER}/" in sites.worker.last_words()
        assert state.read_bytes() == saved
        round_ = f"/v1/federations/{FEDERATION}/rounds/2"
        shown = sites.http.get(round_, headers=dict(sites.admin)).json()
        kinds = {one["client"]: one["reason_kind"] for one in shown["assignments"]}
        assert kinds[WORKER] == "disk"
        again = ("worker", "run", "--config", str(folder / "worker.toml"))
        with run_in_background("worker-again", folder, *again) as worker:
            healed = replace(sites, worker=worker)
            for _ in range(ROUNDS):
                healed.play_round()
            healed.finish(num_failed=1)
