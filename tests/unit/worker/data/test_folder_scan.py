"""What of a folder is read, what is counted, and what is a fault: nothing is dropped silently."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker.data.folder_scan import describe, images_below, scan
from worker.errors import DataError


@pytest.fixture
def split(tmp_path: Path) -> Path:
    for name in ("train/cat/1.png", "train/cat/2.JPG", "train/dog/old/3.tiff"):
        touch(tmp_path / name)
    return tmp_path / "train"


def touch(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x")
    return file


def test_images_are_found_in_folders_inside_whatever_the_case_of_their_suffix(split: Path) -> None:
    found = scan(split)
    cat, dog = split / "cat", split / "dog"
    assert found.classes == {"cat": [cat / "1.png", cat / "2.JPG"], "dog": [dog / "old/3.tiff"]}
    assert (found.left_out, found.faults) == ({}, [])


def test_what_nas_and_desktops_leave_behind_is_counted_and_is_no_class(split: Path) -> None:
    for name in ("@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg"):
        touch(split / name)
    for name in ("__MACOSX/cat/._1.png", "cat/.ipynb_checkpoints/1-checkpoint.png"):
        touch(split / name)
    for name in ("cat/.DS_Store", "Thumbs.db", "dog/Thumbs.db", "cat/._1.png"):
        touch(split / name)
    found = scan(split)
    assert list(found.classes) == ["cat", "dog"]
    assert sum(map(len, found.classes.values())) == 3
    assert found.left_out == {
        "@eaDir": 2,
        "Thumbs.db": 2,
        "__MACOSX": 1,
        ".ipynb_checkpoints": 1,
        ".DS_Store": 1,
        "hidden": 1,
    }


def test_unknown_suffixes_are_counted_and_so_are_images_in_no_class(split: Path) -> None:
    for name in ("cat/a.nii", "cat/b.NII", "dog/scan", "5.png", "labels.csv"):
        touch(split / name)
    found = scan(split)
    assert found.left_out == {
        ".nii": 2,
        "without suffix": 1,
        "in no class folder": 1,
        ".csv": 1,
    }
    assert describe(found.left_out).startswith("2 .nii, 1 ")


def test_linked_folders_and_files_are_followed(split: Path, tmp_path: Path) -> None:
    touch(tmp_path / "archive" / "9.png")
    (split / "dog" / "linked").symlink_to(tmp_path / "archive")
    (split / "wolf").symlink_to(tmp_path / "archive")
    (split / "cat" / "4.png").symlink_to(split / "cat" / "1.png")
    found = scan(split)
    assert [path.name for path in found.classes["cat"]] == ["1.png", "2.JPG", "4.png"]
    assert found.classes["dog"] == [split / "dog/linked/9.png", split / "dog/old/3.tiff"]
    assert found.classes["wolf"] == []
    assert found.faults == [
        f"{split}/wolf: is the same folder as {split}/dog/linked: its images would count twice"
    ]


def test_a_link_back_up_ends(split: Path) -> None:
    (split / "cat" / "again").symlink_to(split / "cat")
    found = scan(split)
    assert len(found.classes["cat"]) == 2
    assert found.faults[0].startswith(f"{split}/cat/again: is the same folder as {split}/cat")


def test_a_link_to_nothing_is_named(split: Path) -> None:
    (split / "cat" / "gone").symlink_to(split / "nowhere")
    (split / "cat" / "0.png").symlink_to(split / "nowhere.png")
    assert scan(split).faults == [
        f"{split}/cat/0.png: is a link to nothing",
        f"{split}/cat/gone: is a link to nothing",
    ]


def test_what_is_no_file_is_named(split: Path) -> None:
    os.mkfifo(split / "cat" / "pipe.png")
    assert scan(split).faults == [f"{split}/cat/pipe.png: is no file"]


def test_an_unreadable_folder_is_named(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user who is not root."""
    real = Path.iterdir

    def iterdir(folder: Path) -> object:
        if folder.name == "old":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = scan(split)
    assert found.faults == [f"{split}/dog/old: cannot be read: Permission denied"]
    monkeypatch.setattr(Path, "iterdir", lambda _: iterdir(split / "old"))
    with pytest.raises(DataError, match="train: cannot be read: Permission denied"):
        scan(split)


def test_images_below_a_folder_or_at_a_path(split: Path) -> None:
    assert images_below(split / "cat" / "1.png") == [split / "cat" / "1.png"]
    assert [path.name for path in images_below(split)] == ["1.png", "2.JPG", "3.tiff"]
    with pytest.raises(DataError, match="nowhere: expected an image or a folder of images, found"):
        images_below(split / "nowhere")
    (split / "empty").mkdir()
    with pytest.raises(DataError, match="empty: expected images, found none"):
        images_below(split / "empty")
    (split / "empty" / "gone.png").symlink_to(split / "nowhere")
    with pytest.raises(DataError, match=r"gone\.png: is a link to nothing"):
        images_below(split / "empty")
