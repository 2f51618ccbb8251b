"""Files of arrays: read as they are meant, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from worker.data.arrays_file import read_images
from worker.data.client_data import ClientData
from worker.data.loading import DatasetCache
from worker.data.source import DataSource
from worker.errors import DataError

PIXELS = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)


def load(folder: Path, names: tuple[str, ...] = ("cat", "dog"), **fields: Any) -> ClientData:
    source = DataSource.model_validate({"dataset": "arrays", "data_dir": folder} | fields)
    return DatasetCache().client_data(source, (1, 2, 3), len(names), names)


def write(folder: Path, split: str, **arrays: Any) -> Path:
    """Four images with what ``arrays`` say; None leaves an array out."""
    whole = {"images": PIXELS, "labels": np.array([0, 1, 1, 0])} | arrays
    file = folder / f"{split}.npz"
    np.savez(file, **{name: array for name, array in whole.items() if array is not None})
    return file


def test_numbers_are_the_federations_labels(tmp_path: Path) -> None:
    for split in ("train", "test", "validation"):
        write(tmp_path, split)
    data = load(tmp_path)
    assert data.train.labels.tolist() == [0, 1, 1, 0]
    assert torch.equal(data.train._data.images[:, 0], torch.from_numpy(PIXELS))
    assert data.validation is not None
    assert len(data.validation) == 4


def test_names_are_mapped(tmp_path: Path) -> None:
    write(tmp_path, "train", labels=np.array(["Hund", "cat", "cat", "Hund"]))
    write(tmp_path, "test", class_names=np.array(["cat", "Hund"]))
    data = load(tmp_path, ("bird", "cat", "dog"), classes={"Hund": "dog"})
    assert data.train.labels.tolist() == [2, 1, 1, 2]
    assert data.test.labels.tolist() == [1, 2, 2, 1]


def test_safetensors_say_the_same(tmp_path: Path) -> None:
    tensors = {"images": torch.from_numpy(PIXELS) / 255, "labels": torch.tensor([0, 1, 1, 0])}
    for split in ("train", "test"):
        safetensors.torch.save_file(tensors, tmp_path / f"{split}.safetensors")
    data = load(tmp_path)
    assert torch.equal(data.test._data.images[:, 0], torch.from_numpy(PIXELS))


def test_groups_keep_validation_apart_and_lie_in_one_split(tmp_path: Path) -> None:
    write(tmp_path, "train", groups=np.array(["p1", "p2", "p1", "p2"]))
    write(tmp_path, "test", groups=np.array(["p3", "p3", "p3", "p4"]))
    data = load(tmp_path, validation_fraction=0.3)
    assert data.validation is not None
    held = sorted(data.validation._positions.tolist())
    assert held in ([0, 2], [1, 3])
    write(tmp_path, "test", groups=np.array(["p3", "p2", "p1", "p4"]))
    with pytest.raises(DataError, match=r"groups lie both in train and in test: p1, p2$"):
        load(tmp_path)
    write(tmp_path, "test")
    with pytest.raises(DataError, match=r"groups in each split or in none, found \['train'\]"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            {"labels": None},
            "expected images, labels, and maybe groups and class_names, found images",
        ),
        ({"extra": np.zeros(1)}, "found extra, images, labels"),
        ({"labels": np.array([0, 1, 2, 0])}, "expected labels of 0 to 1, .* found 2"),
        ({"labels": np.array([{}, 1, 1, 0])}, "expected arrays, cannot read them: .*pickle"),
        ({"groups": np.array([1.0, 2, 3, 4])}, "expected 4 groups, integers or text"),
        ({"groups": np.array([1, 2])}, r"expected 4 groups.* int64 of shape \[2\]"),
        ({"class_names": np.array(["cat"])}, "expected labels of 0 to 0, found 0 to 1"),
        ({"images": PIXELS[:0]}, "expected images, found none"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    write(tmp_path, "train", **arrays)
    write(tmp_path, "test", groups=np.arange(90, 94) if "groups" in arrays else None)
    with pytest.raises(DataError, match=rf"train\.npz: .*{said}"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    write(tmp_path, "test")
    (tmp_path / f"train{suffix}").write_bytes(content)
    with pytest.raises(DataError, match=rf"train\{suffix}: expected arrays, cannot read them: "):
        load(tmp_path)


def test_a_single_array_is_no_file_of_them(tmp_path: Path) -> None:
    write(tmp_path, "test")
    with (tmp_path / "train.npz").open("wb") as stream:
        np.save(stream, PIXELS)
    with pytest.raises(DataError, match=r"train\.npz: expected images, labels, and maybe groups"):
        load(tmp_path)


def test_a_split_is_one_file(tmp_path: Path) -> None:
    write(tmp_path, "test")
    with pytest.raises(DataError, match=r"expected train\.npz or train\.safetensors, found nei"):
        load(tmp_path)
    write(tmp_path, "train")
    (tmp_path / "train.safetensors").touch()
    with pytest.raises(DataError, match=r"expected one file of train, found train\.npz and more"):
        load(tmp_path)


def test_images_alone_are_read_at_the_models_shape(tmp_path: Path) -> None:
    file = write(tmp_path, "new", labels=None)
    found = read_images(file, (1, 2, 3))
    torch.testing.assert_close(found[:, 0], torch.from_numpy(PIXELS) / 255)
    assert read_images(file, (3, 4, 6)).shape == (4, 3, 4, 6)
    with pytest.raises(DataError, match=r"other\.npz: expected images, found labels"):
        read_images(write(tmp_path, "other", images=None), (1, 2, 3))
