"""Files that are whole or absent."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from worker.files import write_atomically


def crash(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_a_file_gets_its_new_content_and_nothing_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "state"
    write_atomically(file, b"old, and longer")
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "state"
    write_atomically(file, b"secret")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_that_others_could_read_is_replaced_by_one_they_cannot(tmp_path: Path) -> None:
    file = tmp_path / "state"
    file.write_bytes(b"old")
    file.chmod(0o644)
    write_atomically(file, b"new")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_crash_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    file = tmp_path / "state"
    write_atomically(file, b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, step, crash)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    write_atomically(file, b"newer")
    assert file.read_bytes() == b"newer"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_is_named_and_leaves_the_old_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "state"
    write_atomically(file, b"old")
    (tmp_path / ".state.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*/state'"):
        write_atomically(file, bytes(1 << 20))
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"


def test_the_content_is_on_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    renamed_after: list[int] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        renamed_after.extend(synced)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_atomically(tmp_path / "state", b"12345")
    assert renamed_after == [5]
    assert len(synced) == 2, "the folder is synced too, or the rename may be lost"
