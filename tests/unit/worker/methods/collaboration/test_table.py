"""Rows of clients, written into a table, averaged by a coordinator and read again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coordinator.aggregation.weighted_mean import WeightedMean
from shared.federation.specification import ParameterSpecification
from shared.tensors import codec
from worker.methods.collaboration.statistics import ClassStatistics, class_statistics
from worker.methods.collaboration.table import SMALLEST_SHARE, RowLayout

LAYOUT = RowLayout(num_classes=3, width=4)
PLACES = 6
TABLE = "clients.table"


def statistics(seed: int, labels: list[int]) -> ClassStatistics:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn((len(labels), LAYOUT.width), generator=generator)
    return class_statistics([(features, torch.tensor(labels))], LAYOUT.num_classes)


def row(seed: int, labels: list[int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(50 + seed)
    weight = torch.randn((3, LAYOUT.width), generator=generator)
    bias = torch.randn(3, generator=generator)
    return LAYOUT.write(statistics(seed, labels), statistics(9 + seed, labels), weight, bias)


def averaged(base: np.ndarray, rows: dict[int, tuple[int, torch.Tensor]]) -> torch.Tensor:
    """The next table, by the coordinator's own mean of float32 updates.

    ``rows`` has weight and row of each client by its place.
    """
    tensor = {"name": TABLE, "shape": base.shape, "initialisation": [{"rows": len(base)}]}
    mean = WeightedMean(ParameterSpecification.model_validate({"seed": 1, "tensors": [tensor]}))
    for place, (num_examples, one) in rows.items():
        own = np.zeros_like(base)
        own[place] = one.numpy()
        reader = codec.StreamReader()
        mean.add_examples(num_examples)
        for block in reader.feed(codec.encode({TABLE: own - base})):
            mean.add_block(num_examples, block)
    return torch.from_numpy(mean.apply_to({TABLE: base})[TABLE])


def random_base() -> np.ndarray:
    generator = np.random.default_rng(1)
    base: np.ndarray = generator.standard_normal((PLACES, LAYOUT.size)).astype(np.float32)
    return 3 * base


def test_who_took_part_is_in_the_table_and_nothing_else_is() -> None:
    told = {1: (7, row(1, [0, 0, 1])), 4: (600, row(2, [1, 1, 1, 2])), 5: (31, row(3, [0]))}
    table = averaged(random_base(), told)
    assert not table[[0, 2, 3]].any()
    torch.testing.assert_close(table[[1, 4, 5], 0], torch.tensor([7, 600, 31]) / 638.0)
    rows = LAYOUT.rows(table)
    assert rows.places == [1, 4, 5]
    for index, (_, one) in enumerate(told.values()):
        given = statistics(index + 1, [[0, 0, 1], [1, 1, 1, 2], [0]][index])
        found = (rows.means[index], rows.variances[index], rows.heads["head.bias"][index])
        for value, expected in zip(
            found, (given.means.reshape(-1), given.variance, one[-3:]), strict=True
        ):
            np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-4)
    assert rows.heads["head.weight"].shape == (3, 3, LAYOUT.width)


def test_centroids_are_means_over_all_examples_of_a_class() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = [torch.tensor([0, 0, 1, 0]), torch.tensor([1, 0])]
    features = [torch.randn((len(one), LAYOUT.width), generator=generator) for one in labels]
    told = {}
    for place, pair in enumerate(zip(features, labels, strict=True)):
        trained = class_statistics([pair], LAYOUT.num_classes)
        one = LAYOUT.write(trained, trained, torch.zeros(3, LAYOUT.width), torch.zeros(3))
        told[place] = (len(pair[1]), one)
    centroids, is_known = LAYOUT.centroids(averaged(random_base(), told))
    assert is_known.tolist() == [True, True, False]
    together, of_all = torch.cat(features).double(), torch.cat(labels)
    for label in (0, 1):
        torch.testing.assert_close(
            centroids[label], together[of_all == label].mean(0), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("share", [0.0, -0.5, SMALLEST_SHARE / 2])
def test_what_has_no_share_is_no_row(share: float) -> None:
    table = torch.full((PLACES, LAYOUT.size), 5.0)
    table[:, 0] = share
    assert LAYOUT.rows(table).places == []
    assert not LAYOUT.centroids(table)[1].any()


def test_a_negative_variance_counts_as_none() -> None:
    table = torch.zeros(PLACES, LAYOUT.size)
    table[2, :2] = torch.tensor([0.5, -3.0])
    assert LAYOUT.rows(table).variances.tolist() == [0.0]


def test_statistics_are_those_of_the_classes() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    found = class_statistics([(features, torch.tensor([0, 0, 2]))], 3)
    torch.testing.assert_close(found.frequencies, torch.tensor([2, 0, 1]).double() / 3)
    expected = torch.tensor([[4 / 3, 0.0], [0.0, 0.0], [0.0, 2 / 3]]).double()
    torch.testing.assert_close(found.means, expected)
    # 2/3 · mean of 1 and 9, and 1/3 · 4, less the squares of 4/3 and 2/3; over 3 examples
    assert found.variance == pytest.approx((10 / 3 + 4 / 3 - 16 / 9 - 4 / 9) / 3)
