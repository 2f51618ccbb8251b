"""A copy of the database made while a coordinator serves, and put back."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest

from shared.arrays import digest_arrays
from shared.tensors.codec import decode
from tests.support.processes import (
    ServingCoordinator,
    hyperfl,
    hyperfl_here,
    serving_coordinator,
)
from tests.support.specifications import tiny_specification

pytestmark = pytest.mark.e2e


def create(coordinator: ServingCoordinator, name: str) -> None:
    file = coordinator.folder / f"{name}.json"
    file.write_text(tiny_specification(name).model_dump_json())
    assert coordinator.admin("federation", "create", file).exit_code == 0


def weights_digest(coordinator: ServingCoordinator, name: str) -> str:
    token = coordinator.admin_token_file.read_text().strip()
    answer = httpx.get(
        f"{coordinator.url}/v1/federations/{name}/weights/0",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 200, answer.text
    digest = digest_arrays(decode(answer.content)[0])
    assert answer.headers["ETag"] == f'"{digest}"'
    return digest


def invite_until(stop: Event, coordinator: ServingCoordinator) -> list[int]:
    """Writes without pause; returns the answers' statuses."""
    token = coordinator.admin_token_file.read_text().strip()
    statuses = []
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}) as http:
        while not stop.is_set():
            url = f"{coordinator.url}/v1/federations/kept/clients"
            body = {"name": f"site-{len(statuses)}"}
            statuses.append(http.post(url, json=body).status_code)
    return statuses


def test_a_backup_made_while_serving_restores_the_same_weights(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    served, restored = tmp_path / "served", tmp_path / "restored"
    served.mkdir()
    restored.mkdir()
    statuses: list[int] = []
    with serving_coordinator(served) as coordinator:
        create(coordinator, "kept")
        digest = weights_digest(coordinator, "kept")
        stop = Event()
        writer = Thread(target=lambda: statuses.extend(invite_until(stop, coordinator)))
        writer.start()
        data_dir = served / "coordinator"
        made = hyperfl(
            *("coordinator", "backup", copy, "--data-dir", data_dir, "--json"), folder=tmp_path
        ).json
        stop.set()
        writer.join()
        create(coordinator, "later")
    assert len(statuses) > 5
    assert set(statuses) == {201}
    assert made["size_bytes"] == copy.stat().st_size
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    target = restored / "coordinator"
    done = hyperfl(
        *("coordinator", "restore", copy, "--data-dir", target, "--json"), folder=tmp_path
    ).json
    assert done["schema"] == made["schema"]
    shutil.copy(served / "coordinator" / "admin-token", target / "admin-token")
    with serving_coordinator(restored) as coordinator:
        assert weights_digest(coordinator, "kept") == digest
        names = [one["name"] for one in coordinator.admin("federation", "list", "--json").json]
        assert names == ["kept"]


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a coordinator's data and a backup of it."""
    folder = tmp_path_factory.mktemp("backed-up")
    assert hyperfl_here("coordinator", "migrate", folder=folder).exit_code == 0
    assert hyperfl_here("coordinator", "backup", "copy.db", folder=folder).exit_code == 0
    return folder


@pytest.fixture
def copy(backed_up: Path, tmp_path: Path) -> Path:
    shutil.copytree(backed_up, tmp_path, dirs_exist_ok=True)
    return tmp_path / "copy.db"


def test_nothing_is_overwritten(copy: Path, tmp_path: Path) -> None:
    before = copy.read_bytes()
    again = hyperfl_here("coordinator", "backup", copy, folder=tmp_path)
    assert (again.exit_code, again.errors.count("\n")) == (2, 1)
    assert "copy.db exists; this command does not overwrite files" in again.errors
    onto = hyperfl_here("coordinator", "restore", copy, folder=tmp_path)
    assert onto.exit_code == 2
    assert "hyperfl.db exists; this command does not overwrite files" in onto.errors
    assert copy.read_bytes() == before


def _damage(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _overwrite(file: Path) -> None:
    file.write_bytes(b"not a database" * 1000)


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _from_newer_code(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


def _with_a_dangling_reference(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO blob_chunks VALUES (77, 0, x'00')")


@pytest.mark.parametrize(
    ("spoil", "exit_code", "message"),
    [
        (_damage, 2, "damaged"),
        (_overwrite, 2, "is not a SQLite database"),
        (_empty, 2, "is not a SQLite database"),
        (_from_newer_code, 1, "schema 9999, which this version of hyperfl does not know"),
        (_with_a_dangling_reference, 2, "rows refer to rows that are missing"),
        (Path.unlink, 2, "cannot be read: No such file or directory"),
    ],
)
def test_a_bad_copy_is_refused_and_leaves_nothing(
    copy: Path, tmp_path: Path, spoil: Callable[[Path], None], exit_code: int, message: str
) -> None:
    spoil(copy)
    target = tmp_path / "other"
    refused = hyperfl_here("coordinator", "restore", copy, "--data-dir", target, folder=tmp_path)
    assert (refused.exit_code, refused.errors.count("\n")) == (exit_code, 1), refused.errors
    assert message in refused.errors
    assert not target.exists() or not list(target.iterdir())


def test_postgresql_is_left_to_its_own_tools(tmp_path: Path) -> None:
    for command in ("backup", "restore"):
        file = tmp_path / "file"
        if command == "restore":
            file.write_bytes(b"")
        done = hyperfl_here(
            *("coordinator", command, file, "--database-url", "postgresql://host/name"),
            folder=tmp_path,
        )
        assert done.exit_code == 2
        assert "use pg_dump and pg_restore" in done.errors
