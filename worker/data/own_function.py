"""Examples that a function of the site's own code gives: ``dataset = "package.module:function"``.

The site names the code itself, so no allow list stands before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from worker.data.file_splits import SPLITS, TEST, TRAIN
from worker.data.image_file import fit, plain
from worker.data.images import Dataset, own_dataset
from worker.data.own_arrays import RawSplit, check_size, label_splits, pixels_of, raw_split
from worker.data.own_rows import rows_of
from worker.data.plain_arrays import plain_array
from worker.data.resizing import shrink
from worker.data.source import DataSource
from worker.data.wanted import Wanted
from worker.errors import DataError
from worker.user_code import import_object, said


def read_function(source: DataSource, wanted: Wanted) -> Dataset:
    """What the function gives, read once.

    It is called with ``data_dir`` where the source has one, else with nothing. It returns a mapping
    with ``train``, ``test``, and maybe ``validation``. Each is a pair (images, labels), or a torch
    ``Dataset`` of pairs (image, label) with a length; see :mod:`worker.data.own_arrays`. A
    dataset's ``classes``, where it has them, name its labels. Images of a dataset may be Pillow's.

    Raises:
        DataError: the function cannot be imported or fails, or gives something else.
    """
    path = source.dataset
    try:
        function = import_object(path)
    except ValueError as error:
        raise DataError(str(error)) from error
    try:
        given = function() if source.data_dir is None else function(source.data_dir)
    except (Exception, SystemExit) as error:  # whatever the site's own code makes of it
        raise DataError(f"{path} failed: {said(error)}") from error
    if not isinstance(given, Mapping) or not {TRAIN, TEST} <= given.keys() <= set(SPLITS):
        found = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise DataError(
            f"{path}: expected a mapping with train, test, and maybe validation, found {found}"
        )
    splits = {name: _raw(f"{path}: {name}", given[name], wanted) for name in given}
    return own_dataset(path, label_splits(splits, wanted), wanted.image_shape[0])


def _raw(where: str, split: Any, wanted: Wanted) -> RawSplit:
    if isinstance(split, tuple) and len(split) == 2:
        return raw_split(where, _examples(where, split[0], wanted), split[1])
    if not (hasattr(split, "__getitem__") and hasattr(split, "__len__")):
        raise DataError(
            f"{where}: expected a pair (images, labels) or a Dataset with a length, "
            f"found {type(split).__name__}"
        )
    images: list[torch.Tensor] = []
    labels = []
    length = _length(where, split)
    for place in range(length):
        at = f"{where}[{place}]"
        image, label = _item(at, split, place)
        images.append(_example(at, image, wanted))
        labels.append(_label(at, label))
        if images[place].shape != images[0].shape:
            raise DataError(
                f"{at}: expected an example of shape {list(images[0].shape)} as the first, "
                f"found {list(images[place].shape)}; give all one size, or Pillow's images"
            )
        check_size(where, length, images[0].shape, wanted)
    classes = getattr(split, "classes", None)
    names = None
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        names = tuple(map(str, classes))
    return raw_split(where, torch.stack(images), labels, names=names)


def _length(where: str, split: Any) -> int:
    try:
        length = len(split)
    except (Exception, SystemExit) as error:
        raise DataError(f"{where}: its length cannot be told: {said(error)}") from error
    if length == 0:
        raise DataError(f"{where}: expected examples, found none")
    return length


def _item(where: str, split: Any, place: int) -> tuple[Any, Any]:
    try:
        item = split[place]
    except (Exception, SystemExit) as error:
        raise DataError(f"{where} failed: {said(error)}") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(f"{where}: expected a pair (image, label), found {type(item).__name__}")
    return item[0], item[1]


def _examples(where: str, values: Any, wanted: Wanted) -> torch.Tensor:
    """Images or rows of features, as the federation takes them; before it is known, as they are."""
    has_rows = wanted.takes_rows
    if not wanted.is_known:
        has_rows = plain_array(values, where).ndim == 2
    return rows_of(values, where, wanted) if has_rows else pixels_of(values, where)


def _example(where: str, image: Any, wanted: Wanted) -> torch.Tensor:
    """float32 (F,); or uint8, (C, H, W), no larger than the model's images.

    An image of Pillow's has their size.
    """
    image_shape = wanted.image_shape
    if isinstance(image, Image.Image) and not wanted.takes_rows:
        return fit(plain(where, image, image_shape[0]), image_shape)
    array = np.asarray(image.detach().cpu() if isinstance(image, torch.Tensor) else image)
    examples = _examples(where, array[None], wanted)
    return examples[0] if examples.ndim == 2 else shrink(examples, image_shape)[0]


def _label(where: str, label: Any) -> int | str:
    array = np.asarray(label.cpu() if isinstance(label, torch.Tensor) else label)
    if array.ndim or array.dtype.kind not in "iuU":
        raise DataError(
            f"{where}: expected one label, an integer or a name, found dtype {array.dtype} of "
            f"shape {list(array.shape)}"
        )
    value: int | str = array.item()
    return value
