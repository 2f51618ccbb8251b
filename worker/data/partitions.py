"""Dividing a data set among clients: pure functions from labels to one index array per client.

Labels are int64 arrays (N,); the results are int64 arrays of positions in them. The same arguments
give the same result on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from worker.errors import DataError

IntArray = npt.NDArray[np.int64]

EMNIST_GROUPS = (tuple(range(10)), tuple(range(10, 36)), tuple(range(36, 62)))
"""The paper's dominant classes for EMNIST byclass: digits, upper case, lower case."""


def dominant_groups(num_classes: int) -> tuple[tuple[int, ...], ...]:
    """The paper's groups of three dominant classes, starting at every second class.

    For ten classes {0,1,2} {2,3,4} {4,5,6} {6,7,8} {8,9,0}, as in the paper; other numbers of
    classes continue the pattern. Client i has group i mod the number of groups.
    """
    size = min(3, num_classes)
    return tuple(
        tuple((first + step) % num_classes for step in range(size))
        for first in range(0, num_classes, 2)
    )


def paper_partition(
    labels: IntArray,
    groups: Sequence[Sequence[int]],
    *,
    num_classes: int,
    num_clients: int,
    examples_per_client: int,
    first_image: int = 0,
) -> list[IntArray]:
    """The partition of the HyperFL paper (arXiv 2412.07187).

    Of a client's examples 20 % are spread evenly over all classes and 80 % evenly over its group
    of dominant classes; what does not divide goes to the first of them, one each. Images are taken
    in the data set's order within their class, client after client, without overlap, until a class
    has fewer left than are wanted; then from its start again. Nothing is drawn at random: the
    published code sets the seed 2022, but its partition makes no use of it.

    Args:
        labels: (N,), each in 0..num_classes-1.
        groups: dominant classes; client i has ``groups[i % len(groups)]``.
        num_classes: number of classes.
        num_clients: number of clients.
        examples_per_client: number of examples of every client.
        first_image: images of each class passed over at first (the paper's 2,000 and 500 for the
            train and test split of CIFAR-10).

    Raises:
        DataError: a client would get no examples, or a class it needs has none.
    """
    takers = [
        _ClassTaker(label, members, first_image)
        for label, members in enumerate(_members_of_classes(labels, num_classes))
    ]
    num_even = examples_per_client // 5
    parts = []
    for client in range(num_clients):
        group = groups[client % len(groups)]
        taken = [
            takers[label].take(count)
            for classes, total in (
                (range(num_classes), num_even),
                (group, examples_per_client - num_even),
            )
            for label, count in zip(classes, _even_counts(total, len(classes)), strict=True)
        ]
        parts.append(np.concatenate(taken))
    return _require_examples(parts)


def dirichlet_partition(
    labels: IntArray, *, num_classes: int, num_clients: int, alpha: float, seed: int
) -> list[IntArray]:
    """Clients of equal size whose class proportions are drawn from a Dirichlet distribution.

    Hsu, Qi and Brown 2019 (arXiv 1909.06335): client by client q ~ Dir(alpha * p), p the data
    set's own class proportions, and the client's examples are drawn without replacement by q; a
    class that has run out is left out of q. Every example goes to exactly one client, so the last
    clients get what the others left.

    Args:
        labels: (N,), each in 0..num_classes-1.
        num_classes: number of classes.
        num_clients: number of clients; their sizes differ by one at most.
        alpha: concentration over all classes together, above 0. Authors who write Dir(a) with the
            same a for each class mean alpha = a * num_classes.
        seed: of all draws.

    Raises:
        DataError: a client would get no examples.
    """
    generator = np.random.default_rng(seed)
    members = [
        generator.permutation(positions) for positions in _members_of_classes(labels, num_classes)
    ]
    left = np.array([len(positions) for positions in members])
    present = np.flatnonzero(left)
    prior = left[present] / len(labels)
    parts = []
    for size in _even_counts(len(labels), num_clients):
        proportions = np.zeros(num_classes)
        proportions[present] = generator.dirichlet(alpha * prior)
        counts = _draw_class_counts(proportions, size, left, generator)
        taken = [
            positions[len(positions) - remaining :][:count]
            for positions, remaining, count in zip(members, left, counts, strict=True)
        ]
        left = left - counts
        parts.append(np.concatenate(taken))
    return _require_examples(parts)


def matching_partition(
    labels: IntArray,
    like_parts: Sequence[IntArray],
    like_labels: IntArray,
    *,
    num_classes: int,
    seed: int,
) -> list[IntArray]:
    """Divide a second split so that each client has the class proportions it has in the first.

    A client gets the share of each class's test images that it has of the class's training images.
    Classes without a training image are given to nobody.

    Args:
        labels: labels of the split to divide (test), (N,).
        like_parts: each client's positions in the other split (train).
        like_labels: labels of the other split, (M,).
        num_classes: number of classes of both.
        seed: of the order in which images are given out.

    Raises:
        DataError: a client would get no examples.
    """
    generator = np.random.default_rng(seed)
    counts = np.array(
        [np.bincount(like_labels[part], minlength=num_classes) for part in like_parts]
    )
    shares: list[list[IntArray]] = [[] for _ in like_parts]
    for label, members in enumerate(_members_of_classes(labels, num_classes)):
        total = counts[:, label].sum()
        if total == 0:
            continue
        ends = np.rint(np.cumsum(counts[:, label]) * (len(members) / total)).astype(np.int64)
        for share, chosen in zip(
            shares, np.split(generator.permutation(members), ends[:-1]), strict=True
        ):
            share.append(chosen)
    return _require_examples([np.concatenate(share) for share in shares])


def iid_partition(labels: IntArray, *, num_clients: int, seed: int) -> list[IntArray]:
    """Every example to one client at random; sizes differ by one at most.

    McMahan et al. 2017 (arXiv 1602.05629), "IID".

    Raises:
        DataError: a client would get no examples.
    """
    order = np.random.default_rng(seed).permutation(len(labels)).astype(np.int64)
    return _require_examples(np.array_split(order, num_clients))


class _ClassTaker:
    """Hands out one class's images in order, from the start again when they run out."""

    def __init__(self, label: int, members: IntArray, first_image: int) -> None:
        self._label = label
        self._members = members
        self._next = first_image

    def take(self, count: int) -> IntArray:
        if count > 0 and len(self._members) == 0:
            raise DataError(f"the partition needs examples of class {self._label}, found none")
        if self._next + count > len(self._members):
            self._next = 0
        places = np.arange(self._next, self._next + count)
        self._next += count
        # Only a request for more than the whole class wraps here, and repeats images.
        return self._members.take(places, mode="wrap")


def _members_of_classes(labels: IntArray, num_classes: int) -> list[IntArray]:
    # A stable sort keeps the data set's order within a class on every machine; numpy's default
    # sort, which the published code uses, depends on the processor.
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(1, num_classes))
    return np.split(order, starts)


def _even_counts(total: int, parts: int) -> list[int]:
    quotient, remainder = divmod(total, parts)
    return [quotient + (place < remainder) for place in range(parts)]


def _draw_class_counts(
    proportions: npt.NDArray[np.float64],
    size: int,
    left: IntArray,
    generator: np.random.Generator,
) -> IntArray:
    """How many of each class ``size`` draws without replacement take, at most ``left`` of each."""
    counts = np.zeros_like(left)
    missing = size
    while missing:
        available = left - counts
        weights = np.where(available > 0, proportions, 0.0)
        if weights.sum() == 0:
            # Every class the client wants has run out: the rest as the data set has them.
            weights = available.astype(np.float64)
        drawn = generator.multinomial(missing, weights / weights.sum())
        accepted = np.minimum(drawn, available)
        counts += accepted
        missing -= int(accepted.sum())
    return counts


def _require_examples(parts: list[IntArray]) -> list[IntArray]:
    for client, part in enumerate(parts):
        if len(part) == 0:
            raise DataError(
                f"client {client} of {len(parts)} gets no examples: "
                "the data set is too small for this partition"
            )
    return parts
