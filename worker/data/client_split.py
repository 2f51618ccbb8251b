"""Which examples of a data set are one client's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worker.data.images import Dataset
from worker.data.partitions import (
    EMNIST_GROUPS,
    IntArray,
    dirichlet_partition,
    dominant_groups,
    iid_partition,
    matching_partition,
    paper_partition,
)
from worker.data.source import DataSource
from worker.errors import DataError


@dataclass(frozen=True)
class _PaperNumbers:
    """Examples of every client in the paper, and images of each class passed over at first."""

    train_examples: int
    test_examples: int
    first_train_image: int = 0
    first_test_image: int = 0


_PAPER_NUMBERS = {
    "fashion-mnist": _PaperNumbers(600, 600),
    "emnist": _PaperNumbers(1000, 600),
    "cifar10": _PaperNumbers(600, 300, first_train_image=2000, first_test_image=500),
    "cinic10": _PaperNumbers(600, 300, first_train_image=2000, first_test_image=500),
}


def split_for_client(source: DataSource, dataset: Dataset) -> tuple[IntArray, IntArray]:
    """Positions of one client's examples in the train and in the test split.

    The test split is divided in the same proportions of classes as the train split.

    Args:
        source: partition, number of clients, which one, and how many examples it keeps.
        dataset: the data set ``source`` names.

    Returns:
        int64 positions in ``dataset.train`` and in ``dataset.test``, (n,) each.

    Raises:
        DataError: a client would get no examples, or fewer than ``source`` asks for.
    """
    train_labels = dataset.train.labels.numpy()
    test_labels = dataset.test.labels.numpy()
    num_classes = len(dataset.train.class_names)
    if source.partition == "paper":
        return _paper_split(source, train_labels, test_labels, num_classes)
    if source.partition == "none":
        train: IntArray = np.arange(len(train_labels))
        test: IntArray = np.arange(len(test_labels))
    else:
        if source.partition == "dirichlet":
            train_parts = dirichlet_partition(
                train_labels,
                num_classes=num_classes,
                num_clients=source.num_clients,
                alpha=source.dirichlet_alpha,
                seed=source.seed,
            )
            test_parts = matching_partition(
                test_labels,
                train_parts,
                train_labels,
                num_classes=num_classes,
                seed=source.seed,
            )
        else:
            train_parts, test_parts = (
                iid_partition(labels, num_clients=source.num_clients, seed=source.seed)
                for labels in (train_labels, test_labels)
            )
        train, test = train_parts[source.client_index], test_parts[source.client_index]
    return (
        _keep(train, source.train_examples, "train_examples", source),
        _keep(test, source.test_examples, "test_examples", source),
    )


def _paper_split(
    source: DataSource, train_labels: IntArray, test_labels: IntArray, num_classes: int
) -> tuple[IntArray, IntArray]:
    numbers = _PAPER_NUMBERS.get(
        source.dataset,
        _PaperNumbers(
            len(train_labels) // source.num_clients, len(test_labels) // source.num_clients
        ),
    )
    groups = EMNIST_GROUPS if source.dataset == "emnist" else dominant_groups(num_classes)
    train_parts, test_parts = (
        paper_partition(
            labels,
            groups,
            num_classes=num_classes,
            num_clients=source.num_clients,
            examples_per_client=examples_per_client,
            first_image=first_image,
        )
        for labels, examples_per_client, first_image in (
            (
                train_labels,
                source.train_examples or numbers.train_examples,
                numbers.first_train_image,
            ),
            (test_labels, source.test_examples or numbers.test_examples, numbers.first_test_image),
        )
    )
    return train_parts[source.client_index], test_parts[source.client_index]


def _keep(positions: IntArray, count: int | None, setting: str, source: DataSource) -> IntArray:
    if count is None:
        return positions
    if count > len(positions):
        raise DataError(
            f"client {source.client_index} of {source.num_clients}: {setting} asks for {count} "
            f"examples of {source.dataset}, found {len(positions)}"
        )
    generator = np.random.default_rng([source.seed, source.client_index])
    return generator.permutation(positions)[:count]
