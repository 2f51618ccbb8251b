"""Examples in files of arrays: ``dataset = "arrays"``, one ``.npz`` or safetensors a split."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch

from worker.data.file_splits import SPLITS, TEST, TRAIN
from worker.data.images import Dataset, own_dataset
from worker.data.own_arrays import RawSplit, check_groups, label_splits, pixels_of, raw_split
from worker.data.resizing import enlarge, shrink
from worker.data.source import DataSource
from worker.data.wanted import Wanted
from worker.errors import DataError

IMAGES, LABELS, GROUPS, CLASS_NAMES = "images", "labels", "groups", "class_names"
SUFFIXES = (".npz", ".safetensors")


def read_arrays(source: DataSource, wanted: Wanted) -> Dataset:
    """What lies in ``data_dir``: ``train``, ``test``, and maybe ``validation``.

    Each file has ``images`` and ``labels`` as :mod:`worker.data.own_arrays` takes them. It may have
    ``groups`` (N,), integers or text, and an ``.npz`` the ``class_names`` of its labels.

    Raises:
        DataError: a file is missing or damaged, there are two of a split, arrays cannot be used, or
            a group lies in two splits.
    """
    folder = source.data_dir or Path()
    files = {name: file for name in SPLITS if (file := _file_of(folder, name)) is not None}
    for name in (TRAIN, TEST):
        if name not in files:
            expected = " or ".join(name + suffix for suffix in SUFFIXES)
            raise DataError(f"{folder}: expected {expected}, found neither")
    arrays = {name: _read(file) for name, file in files.items()}
    check_groups(
        folder, {name: one[GROUPS] for name, one in arrays.items() if GROUPS in one}, len(files)
    )
    splits = {name: _raw(files[name], one) for name, one in arrays.items()}
    return own_dataset(source.dataset, label_splits(splits, wanted), wanted.image_shape[0])


def read_images(file: Path, image_shape: tuple[int, int, int]) -> torch.Tensor:
    """The ``images`` of one file at the model's shape, float32 (N, C, H, W), pixels 0..1.

    Raises:
        DataError: as :func:`read_arrays`.
    """
    arrays = _read(file)
    if IMAGES not in arrays:
        raise DataError(f"{file}: expected {IMAGES}, found {', '.join(arrays)}")
    stored = shrink(pixels_of(arrays[IMAGES], str(file)), image_shape)
    return enlarge(stored.float() / 255, image_shape)


def _file_of(folder: Path, split: str) -> Path | None:
    found = [file for suffix in SUFFIXES if (file := folder / (split + suffix)).exists()]
    if len(found) > 1:
        raise DataError(f"{folder}: expected one file of {split}, found {found[0].name} and more")
    return found[0] if found else None


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.suffix == ".npz":
            # Never a pickle: that would run what somebody wrote into the file.
            with file.open("rb") as stream:
                opened = np.load(stream, allow_pickle=False)
                return dict(opened) if isinstance(opened, Mapping) else {"": opened}
        with safetensors.safe_open(file, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        safetensors.SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file}: expected arrays, cannot read them: {reason}") from error


def _raw(file: Path, arrays: Mapping[str, Any]) -> RawSplit:
    known = {IMAGES, LABELS, GROUPS, CLASS_NAMES}
    if not {IMAGES, LABELS} <= arrays.keys() <= known:
        raise DataError(
            f"{file}: expected {IMAGES}, {LABELS}, and maybe {GROUPS} and {CLASS_NAMES}, "
            f"found {', '.join(sorted(arrays))}"
        )
    names = tuple(map(str, arrays[CLASS_NAMES])) if CLASS_NAMES in arrays else None
    return raw_split(
        str(file), arrays[IMAGES], arrays[LABELS], names=names, groups=arrays.get(GROUPS)
    )
