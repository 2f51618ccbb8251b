"""A folder with one of each fault: all are listed, and what is only odd is told from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worker.data.classes import AgreedClasses
from worker.data.image_folder import look_at_folder
from worker.data.survey import Survey, equal_across, oddities, summary, survey

GENERATOR = np.random.default_rng(3)


def image(file: Path, *, side: int = 8) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(GENERATOR.integers(0, 256, (side, side), dtype=np.uint8)).save(file)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """In order."""
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            for number in range(2):
                image(tmp_path / split / label / f"{number}.png")
    return tmp_path


def faults(found: Survey) -> list[str]:
    return [line for split in found.values() for line in split.faults]


def test_a_folder_in_order_has_nothing_odd(folder: Path) -> None:
    found = survey(look_at_folder(folder), None)
    assert (faults(found), [*oddities(found)]) == ([], [])
    assert summary("train", found["train"]) == (
        "train: 4 images; cat 2, dog 2; modes L 4; sizes 8x8 to 8x8"
    )


def test_each_fault_is_listed(folder: Path) -> None:
    cat = folder / "train" / "cat"
    (cat / "broken.png").write_bytes(b"no image")
    (cat / "cut.png").write_bytes(image(folder / "whole.png", side=64).read_bytes()[:2000])
    (cat / "empty.jpg").touch()
    (cat / "gone.png").symlink_to(folder / "nowhere")
    (cat / "again").symlink_to(folder / "train" / "dog")
    Image.new("L", (9, 9)).save(
        cat / "pages.tif", save_all=True, append_images=[Image.new("L", (9, 9))]
    )
    found = faults(survey(look_at_folder(folder), None))
    assert [line.removeprefix(f"{folder}/train/").partition(":")[0] for line in found] == [
        "cat/gone.png",
        "dog",  # after it was read as cat/again
        "cat/broken.png",
        "cat/cut.png",
        "cat/empty.jpg",
        "cat/pages.tif",
    ]
    assert "is a link to nothing" in found[0]
    assert "is the same folder as" in found[1]
    assert "found an empty file" in found[4]
    assert "found 2 pages or frames" in found[5]


def test_what_is_odd_is_said(folder: Path) -> None:
    copied = image(folder / "train" / "dog" / "2.png").read_bytes()
    (folder / "test" / "dog" / "copy.png").write_bytes(copied)
    Image.new("L", (8, 8), 77).save(folder / "train" / "cat" / "blank.png")
    image(folder / "train" / "wolf" / "0.png")
    (folder / "test" / "wolf").mkdir()
    for name in ("cat/@eaDir/0.png/THUMB_M.jpg", "cat/x.nii", "cat/y.nii"):
        (folder / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "train" / name).touch()
    found = survey(look_at_folder(folder), None)
    assert faults(found) == []
    assert [*oddities(found)] == [
        "train: files left out: 2 .nii, 1 @eaDir",
        f"train: 1 image of one colour alone: {folder}/train/cat/blank.png",
        "train: classes with one image: wolf",
        f"1 image both in train and in test, byte by byte: "
        f"{folder}/train/dog/2.png = {folder}/test/dog/copy.png",
    ]


def test_classes_are_counted_under_the_agreed_names(folder: Path) -> None:
    agreed = AgreedClasses(("bird", "Katze", "dog"), {"cat": "Katze"})
    found = survey(look_at_folder(folder), agreed)
    assert faults(found) == []
    said = "test: 4 images; Katze 2, dog 2; none of bird; modes L 4; sizes 8x8 to 8x8"
    assert summary("test", found["test"]) == said


def test_a_folder_of_no_agreed_class_is_a_fault_beside_the_others(folder: Path) -> None:
    (folder / "test" / "dog" / "0.png").write_bytes(b"")
    found = faults(survey(look_at_folder(folder), AgreedClasses(("cat", "wolf"))))
    assert [line.partition(":")[0] for line in found] == [
        f"{folder}/train",
        f"{folder}/test",
        f"{folder}/test/dog/0.png",
    ]


def test_a_missing_split_and_one_without_images_are_faults(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    assert faults(survey(look_at_folder(tmp_path), None)) == [
        f"{tmp_path}/train: expected images in its class folders, found none",
        f"{tmp_path}/test: expected a folder with one folder for each class, found none",
    ]


def test_images_that_two_clients_have_are_counted(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for split in ("train", "test"):
        image(other / split / "cat" / "1.png")
    one = survey(look_at_folder(folder), None)
    assert equal_across(one, survey(look_at_folder(other), None)) is None
    for number in range(2):
        content = (folder / "train" / "dog" / f"{number}.png").read_bytes()
        (other / "test" / "cat" / f"same-{number}.png").write_bytes(content)
    said = equal_across(one, survey(look_at_folder(other), None))
    assert said is not None
    assert said.startswith("2 images, byte by byte: ")
    assert f"{folder}/train/dog/0.png = {other}/test/cat/same-0.png" in said
