"""A site's own examples as arrays: checked, and brought to what the model and classes want."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch

from worker.data.classes import AgreedClasses
from worker.data.images import LabelledImages
from worker.data.plain_arrays import plain_array
from worker.data.resizing import shrink
from worker.data.wanted import Wanted
from worker.errors import DataError

_CHANNELS = (1, 3)
_NAMED_GROUPS = 5


@dataclass(frozen=True, eq=False)
class RawSplit:
    """One split as its source gives it.

    Attributes:
        where: it was found, for messages.
        images: uint8, (N, C, H, W), C 1 or 3; or float32, (N, F), rows of features.
        labels: int64, (N,).
        names: the site's name of the class of each label, from 0; None where labels are numbers.
        groups: int64, (N,), see :class:`worker.data.images.LabelledImages`.
    """

    where: str
    images: torch.Tensor
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...] | None = None
    groups: torch.Tensor | None = None


def raw_split(
    where: str,
    examples: torch.Tensor,
    labels: object,
    *,
    names: tuple[str, ...] | None = None,
    groups: object = None,
) -> RawSplit:
    """A split of two arrays.

    Args:
        where: they were found, for messages.
        examples: of :func:`pixels_of` or of :func:`worker.data.own_rows.rows_of`.
        labels: (N,), integers from 0 or names of classes.
        names: of the classes of labels that are integers.
        groups: (N,), integers or text, see :class:`worker.data.images.LabelledImages`.

    Raises:
        DataError: type, shape or values cannot be used.
    """
    found = plain_array(labels, f"{where}: labels")
    if found.shape != (len(examples),):
        raise DataError(
            f"{where}: expected {len(examples)} labels, one for each example, "
            f"found an array of shape {list(found.shape)}"
        )
    numbered = None if groups is None else _group_numbers(groups, len(examples), where)
    if found.dtype.kind == "U":
        of_labels, numbers = np.unique(found, return_inverse=True)
        return RawSplit(
            where, examples, numbers.astype(np.int64), tuple(of_labels.tolist()), numbered
        )
    if found.dtype.kind not in "iu":
        raise DataError(
            f"{where}: expected labels that are integers or names, found dtype {found.dtype}"
        )
    smallest, largest = int(found.min()), int(found.max())
    if smallest < 0 or (names is not None and largest >= len(names)):
        bound = "0 or more" if names is None else f"0 to {len(names) - 1}"
        raise DataError(f"{where}: expected labels of {bound}, found {smallest} to {largest}")
    return RawSplit(where, examples, found.astype(np.int64), names, numbered)


def check_groups(where: object, groups: Mapping[str, object], num_splits: int) -> None:
    """Raises DataError, naming the group, if one lies in two splits, or a split has no groups.

    Args:
        where: they were found, for messages.
        groups: (N,) by the split's name, of those that have them.
        num_splits: that there are.
    """
    if groups and len(groups) < num_splits:
        raise DataError(f"{where}: expected groups in each split or in none, found {list(groups)}")
    members = {
        name: set(plain_array(one, f"{where}: groups").ravel().tolist())
        for name, one in groups.items()
    }
    for one, other in combinations(members, 2):
        if both := members[one] & members[other]:
            named = ", ".join(map(str, sorted(both)[:_NAMED_GROUPS]))
            rest = len(both) - _NAMED_GROUPS
            more = f" and {rest} more" if rest > 0 else ""
            raise DataError(f"{where}: groups lie both in {one} and in {other}: {named}{more}")


def _group_numbers(groups: object, count: int, where: str) -> torch.Tensor:
    found = plain_array(groups, f"{where}: groups")
    if found.shape != (count,) or found.dtype.kind == "f":
        raise DataError(
            f"{where}: expected {count} groups, integers or text, one for each example, "
            f"found {found.dtype} of shape {list(found.shape)}"
        )
    return torch.from_numpy(np.unique(found, return_inverse=True)[1].astype(np.int64))


def pixels_of(images: object, where: str) -> torch.Tensor:
    """Images as uint8, (N, C, H, W).

    Args:
        images: a tensor or an array, (N, H, W) or (N, C, H, W), C 1 or 3: uint8, or floating point
            in 0..1, which is rounded to 8 bits.
        where: they were found, for messages.

    Raises:
        DataError: there is none, or type, shape or values are others.
    """
    array = plain_array(images, f"{where}: images")
    shape = list(array.shape)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or array.shape[1] not in _CHANNELS:
        hint = "; channels come before height and width" if shape[-1:] in ([1], [3]) else ""
        raise DataError(
            f"{where}: expected images of shape (N, H, W), (N, 1, H, W) or (N, 3, H, W), "
            f"found {shape}{hint}"
        )
    if array.size == 0:
        raise DataError(f"{where}: expected images, found none: their shape is {shape}")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise DataError(
                f"{where}: expected images of floating point with pixels in 0..1, found "
                f"{array.min():g} to {array.max():g}; they are normalised later, as at every site"
            )
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(
            f"{where}: expected images of uint8, or of floating point in 0..1, "
            f"found dtype {array.dtype}"
        )
    return torch.from_numpy(np.ascontiguousarray(array))


def check_size(where: str, count: int, shape: Sequence[int], wanted: Wanted) -> None:
    """Raises DataError if so many images of this shape, in bytes, are more than is wanted.

    Rows of features, of one size, have four bytes a value.
    """
    what, each = ("rows", 4) if len(shape) == 1 else ("images", 1)
    needed = count * each * math.prod(shape)
    if wanted.max_bytes is not None and needed > wanted.max_bytes:
        raise DataError(
            f"{where}: expected at most {wanted.max_bytes} bytes of {what} "
            f"(HYPERFL_MAX_MEMORY_BYTES), found {count} {what}, which have {needed}"
        )


def label_splits(splits: Mapping[str, RawSplit], wanted: Wanted) -> dict[str, LabelledImages]:
    """Every split with the labels that are wanted, no larger than the model's images.

    Names are mapped as names of folders are. Numbers are the federation's labels, except where the
    site's map says which class each of them is.

    Raises:
        DataError: classes are not those that are wanted, or the images would be too large.
    """
    agreed, num_classes = wanted.agreed, wanted.num_classes
    are_names = any(split.names is not None for split in splits.values())
    if not are_names and agreed is not None and not agreed.local_names:
        num_classes, agreed = len(agreed.names), None
    if not are_names and agreed is None and num_classes is not None:
        names = tuple(str(number) for number in range(num_classes))
        if wanted.agreed is not None:
            names = wanted.agreed.names
        return {name: _of_numbers(split, names, wanted) for name, split in splits.items()}
    if agreed is None:
        own = tuple(dict.fromkeys(name for split in splits.values() for name in _names(split)))
        if num_classes not in (None, len(own)):
            raise DataError(
                f"{splits['train'].where}: expected {num_classes} classes, found {len(own)}: "
                f"{', '.join(own)}"
            )
        agreed = AgreedClasses(own)
    return {name: _of_names(split, agreed, wanted) for name, split in splits.items()}


def _of_numbers(split: RawSplit, names: tuple[str, ...], wanted: Wanted) -> LabelledImages:
    if (largest := int(split.labels.max())) >= len(names):
        raise DataError(
            f"{split.where}: expected labels of 0 to {len(names) - 1}, for the federation's "
            f"{len(names)} classes, found {largest}"
        )
    return _labelled(split, split.labels, names, wanted)


def _of_names(split: RawSplit, agreed: AgreedClasses, wanted: Wanted) -> LabelledImages:
    present = np.unique(split.labels)
    own = _names(split)
    labels = np.zeros(len(own), np.int64)
    labels[present] = agreed.labels_of([own[label] for label in present], split.where)
    return _labelled(split, labels[split.labels], agreed.names, wanted)


def _labelled(
    split: RawSplit, labels: npt.NDArray[np.int64], names: tuple[str, ...], wanted: Wanted
) -> LabelledImages:
    images = split.images
    if images.ndim > 2:
        images = shrink(images, wanted.image_shape)
    check_size(split.where, len(images), images.shape[1:], wanted)
    return LabelledImages(images, torch.from_numpy(labels), names, groups=split.groups)


def _names(split: RawSplit) -> tuple[str, ...]:
    if split.names is not None:
        return split.names
    return tuple(str(number) for number in range(int(split.labels.max()) + 1))
