"""Which examples are kept apart from the others: whole groups, or as many of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from worker.data.partitions import IntArray
from worker.errors import DataError


def hold_out(
    labels: IntArray, groups: IntArray | None, fraction: float, seed: int | Sequence[int], what: str
) -> tuple[IntArray, IntArray]:
    """Positions of the examples that stay, and of those that are kept apart.

    Without groups each class gives its share, to within one example. With groups, whole ones are
    drawn until there are as many examples as the fraction asks for, or a few more.

    Args:
        labels: (N,).
        groups: (N,), whose each example is; None where nothing says so.
        fraction: of the examples that are kept apart, between 0 and 1.
        seed: of the draw.
        what: is drawn, for messages.

    Returns:
        Two ascending arrays of positions, neither of them empty.

    Raises:
        DataError: there are too few examples or groups for both.
    """
    generator = np.random.default_rng(seed)
    if groups is None:
        held = _of_each_class(labels, fraction, generator)
    else:
        held = _whole_groups(groups, fraction, generator, what)
    if not 0 < len(held) < len(labels):
        raise DataError(
            f"{what} of {fraction:g} leaves {len(labels) - len(held)} examples here and "
            f"{len(held)} there: there are {len(labels)} in all"
        )
    rest: IntArray = np.setdiff1d(np.arange(len(labels)), held)
    return rest, np.sort(held)


def _of_each_class(labels: IntArray, fraction: float, generator: np.random.Generator) -> IntArray:
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # Every 1/fraction-th of a list that is sorted by class is as much of each class.
    reached = np.floor(np.arange(len(labels) + 1) * fraction)
    held: IntArray = by_class[np.diff(reached) > 0]
    return held


def _whole_groups(
    groups: IntArray, fraction: float, generator: np.random.Generator, what: str
) -> IntArray:
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < 2:
        raise DataError(f"{what} needs two groups at least, found {len(names)}")
    order = generator.permutation(len(names))
    reached = np.cumsum(sizes[order])
    wanted = math.ceil(fraction * len(groups))
    count = min(int(np.searchsorted(reached, wanted)) + 1, len(names) - 1)
    held: IntArray = np.flatnonzero(np.isin(groups, names[order[:count]]))
    return held
