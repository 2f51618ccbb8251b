import numpy as np
import pytest

from worker.data.partitions import (
    EMNIST_GROUPS,
    dirichlet_partition,
    dominant_groups,
    iid_partition,
    matching_partition,
    paper_partition,
)
from worker.errors import DataError

PAPER_GROUPS = ((0, 1, 2), (2, 3, 4), (4, 5, 6), (6, 7, 8), (8, 9, 0))


def shuffled_labels(per_class, num_classes=10):
    labels = np.repeat(np.arange(num_classes), per_class)
    return np.random.default_rng(7).permutation(labels)


def class_counts(labels, parts, num_classes=10):
    return np.array([np.bincount(labels[part], minlength=num_classes) for part in parts])


def paper_parts(labels, num_clients=20, examples_per_client=600, first_image=0, num_classes=10):
    return paper_partition(
        labels,
        dominant_groups(num_classes),
        num_classes=num_classes,
        num_clients=num_clients,
        examples_per_client=examples_per_client,
        first_image=first_image,
    )


def test_ten_classes_have_the_groups_of_the_paper():
    assert dominant_groups(10) == PAPER_GROUPS


@pytest.mark.parametrize("num_classes", [1, 2, 3, 7, 62])
def test_every_class_is_dominant_in_some_group_and_none_twice_in_one(num_classes):
    groups = dominant_groups(num_classes)
    assert {label for group in groups for label in group} == set(range(num_classes))
    assert all(len(set(group)) == len(group) == min(3, num_classes) for group in groups)


def test_paper_class_counts_of_20_clients_with_600_examples():
    labels = shuffled_labels(6000)
    counts = class_counts(labels, paper_parts(labels))
    for client, of_client in enumerate(counts):
        group = PAPER_GROUPS[client % 5]
        assert of_client.tolist() == [172 if label in group else 12 for label in range(10)]


def test_paper_class_counts_of_emnist_are_even_within_one():
    labels = shuffled_labels(300, num_classes=62)
    parts = paper_partition(
        labels, EMNIST_GROUPS, num_classes=62, num_clients=3, examples_per_client=1000
    )
    for of_client, group in zip(class_counts(labels, parts, 62), EMNIST_GROUPS, strict=True):
        dominant = np.isin(np.arange(62), group)
        assert of_client.sum() == 1000
        assert of_client[dominant].sum() >= 800
        assert set(of_client[~dominant]) <= {3, 4}


def test_paper_clients_do_not_overlap_while_images_last():
    labels = shuffled_labels(6000)
    everything = np.concatenate(paper_parts(labels))
    assert len(np.unique(everything)) == 20 * 600


def test_paper_takes_images_in_the_order_of_the_data_set():
    labels = shuffled_labels(6000)
    first, second = paper_parts(labels, num_clients=2)
    threes = np.flatnonzero(labels == 3)
    assert first[labels[first] == 3].tolist() == threes[:12].tolist()
    assert second[labels[second] == 3].tolist() == threes[12 : 12 + 172].tolist()


def test_paper_starts_a_class_again_when_too_few_are_left():
    labels = shuffled_labels(200)
    parts = paper_parts(labels, num_clients=6)
    zeros = np.flatnonzero(labels == 0)
    # Client 0 has taken 12 + 160, clients 1 and 2 the next 24: 4 are left, 12 are wanted.
    assert parts[3][labels[parts[3]] == 0].tolist() == zeros[:12].tolist()
    assert parts[4][labels[parts[4]] == 0].tolist() == zeros[12 : 12 + 172].tolist()


def test_paper_passes_over_the_first_images_of_each_class():
    labels = shuffled_labels(5000)
    (part,) = paper_parts(labels, num_clients=1, first_image=2000)
    fives = np.flatnonzero(labels == 5)
    assert part[labels[part] == 5].tolist() == fives[2000:2012].tolist()


def test_paper_names_a_class_without_examples():
    labels = shuffled_labels(50, num_classes=9)
    with pytest.raises(DataError, match="class 9, found none"):
        paper_parts(labels)


@pytest.mark.parametrize("alpha", [1e-4, 0.5, 100.0])
def test_dirichlet_gives_every_example_to_one_client_in_equal_sizes(alpha):
    labels = shuffled_labels(101)
    parts = dirichlet_partition(labels, num_classes=10, num_clients=20, alpha=alpha, seed=1)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1010))
    assert {len(part) for part in parts} == {50, 51}


def test_dirichlet_depends_on_its_seed_alone():
    labels = shuffled_labels(100)
    first, again, other = (
        dirichlet_partition(labels, num_classes=10, num_clients=5, alpha=0.5, seed=seed)
        for seed in (3, 3, 4)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_dirichlet_is_more_uneven_with_a_smaller_alpha():
    labels = shuffled_labels(200)

    def largest_share(alpha):
        parts = dirichlet_partition(labels, num_classes=10, num_clients=10, alpha=alpha, seed=2)
        return (class_counts(labels, parts).max(axis=1) / 200).mean()

    assert largest_share(0.1) > largest_share(5.0) > largest_share(1000.0)


def test_dirichlet_copes_with_a_class_without_examples():
    labels = np.array([0, 2] * 20)
    parts = dirichlet_partition(labels, num_classes=4, num_clients=4, alpha=0.5, seed=0)
    assert sum(len(part) for part in parts) == 40


def test_matching_test_split_has_the_class_proportions_of_train():
    labels, test_labels = shuffled_labels(600), shuffled_labels(100)
    parts = dirichlet_partition(labels, num_classes=10, num_clients=10, alpha=1.0, seed=5)
    test_parts = matching_partition(test_labels, parts, labels, num_classes=10, seed=5)
    difference = class_counts(test_labels, test_parts) - class_counts(labels, parts) / 6
    assert np.abs(difference).max() <= 1
    assert np.array_equal(np.sort(np.concatenate(test_parts)), np.arange(1000))


def test_matching_gives_nobody_a_class_that_nobody_trains_on():
    labels = np.array([0, 0, 0, 1, 1, 1])
    parts = [np.array([0, 1]), np.array([2])]
    test_parts = matching_partition(labels, parts, labels, num_classes=2, seed=0)
    assert np.array_equal(np.sort(np.concatenate(test_parts)), [0, 1, 2])


def test_matching_names_a_client_without_examples():
    labels = np.array([0] * 9 + [1])
    parts = [np.arange(9), np.array([9])]
    with pytest.raises(DataError, match="client 1 of 2 gets no examples"):
        matching_partition(np.array([0, 0]), parts, labels, num_classes=2, seed=0)


def test_iid_gives_every_example_to_one_client():
    labels = shuffled_labels(10)
    parts = iid_partition(labels, num_clients=7, seed=0)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(100))
    assert {len(part) for part in parts} == {14, 15}
    again = iid_partition(labels, num_clients=7, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize(
    "partition",
    [
        lambda labels: iid_partition(labels, num_clients=5, seed=0),
        lambda labels: dirichlet_partition(
            labels, num_classes=10, num_clients=5, alpha=0.5, seed=0
        ),
    ],
)
def test_a_client_without_examples_is_named(partition):
    with pytest.raises(DataError, match="client 3 of 5 gets no examples"):
        partition(np.array([0, 4, 9]))


def test_paper_with_no_examples_for_each_client_is_an_error():
    with pytest.raises(DataError, match="client 0 of 20 gets no examples"):
        paper_parts(shuffled_labels(1), examples_per_client=0)
