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
from worker.data.images import Dataset, ImageShape, own_dataset
from worker.data.own_arrays import RawSplit, check_groups, label_splits, pixels_of, raw_split
from worker.data.own_rows import rows_of
from worker.data.resizing import enlarge, shrink
from worker.data.source import DataSource
from worker.data.wanted import Wanted
from worker.errors import DataError

IMAGES, LABELS, GROUPS, CLASS_NAMES = "images", "labels", "groups", "class_names"
FEATURES, FEATURE_NAMES = "features", "feature_names"
SUFFIXES = (".npz", ".safetensors")


def read_arrays(source: DataSource, wanted: Wanted) -> Dataset:
    """What lies in ``data_dir``: ``train``, ``test``, and maybe ``validation``.

    Each file has ``images`` as :mod:`worker.data.own_arrays` takes them, or ``features`` as
    :mod:`worker.data.own_rows`, and ``labels``. It may have ``groups`` (N,), integers or text, and
    an ``.npz`` the ``class_names`` of its labels and the ``feature_names`` of its columns.

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
    splits = {name: _raw(files[name], one, wanted) for name, one in arrays.items()}
    return own_dataset(source.dataset, label_splits(splits, wanted), wanted.image_shape[0])


def read_images(file: Path, image_shape: ImageShape) -> torch.Tensor:
    """The ``images`` of one file at the model's shape, float32 (N, C, H, W), pixels 0..1.

    Raises:
        DataError: as :func:`read_arrays`.
    """
    arrays = _read(file)
    if IMAGES not in arrays:
        raise DataError(f"{file}: expected {IMAGES}, found {', '.join(arrays)}")
    stored = shrink(pixels_of(arrays[IMAGES], str(file)), image_shape)
    return enlarge(stored.float() / 255, image_shape)


def read_rows(file: Path, wanted: Wanted) -> torch.Tensor:
    """The ``features`` of one file, float32 (N, F).

    Raises:
        DataError: as :func:`read_arrays`.
    """
    return _rows(file, _read(file), wanted)


def _rows(file: Path, arrays: Mapping[str, Any], wanted: Wanted) -> torch.Tensor:
    if FEATURES not in arrays:
        raise DataError(f"{file}: expected {FEATURES}, found {', '.join(arrays)}")
    names = tuple(map(str, arrays[FEATURE_NAMES])) if FEATURE_NAMES in arrays else None
    return rows_of(arrays[FEATURES], str(file), wanted, names)


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


def _raw(file: Path, arrays: Mapping[str, Any], wanted: Wanted) -> RawSplit:
    has_rows = wanted.takes_rows if wanted.is_known else FEATURES in arrays
    what, others = IMAGES, [GROUPS, CLASS_NAMES]
    if has_rows:
        what, others = FEATURES, [FEATURE_NAMES, GROUPS, CLASS_NAMES]
    if not {what, LABELS} <= arrays.keys() <= {what, LABELS, *others}:
        raise DataError(
            f"{file}: expected {what}, {LABELS}, and maybe {', '.join(others[:-1])} and "
            f"{others[-1]}, found {', '.join(sorted(arrays))}"
        )
    names = tuple(map(str, arrays[CLASS_NAMES])) if CLASS_NAMES in arrays else None
    examples = _rows(file, arrays, wanted) if has_rows else pixels_of(arrays[IMAGES], str(file))
    return raw_split(str(file), examples, arrays[LABELS], names=names, groups=arrays.get(GROUPS))
