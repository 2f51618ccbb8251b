"""The benchmark of a GPU's steps: its formula by hand, and its code on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.benchmarks.device_steps import measure
from tests.benchmarks.step_floor import Rates, Step, Work
from worker.models.mlp import MultilayerPerceptron


def test_the_floor_of_two_linear_layers() -> None:
    """4 → 3 → 3 and a head of 2 classes: 15 + 12 = 27 parameters, with the head 35."""
    step = Step(MultilayerPerceptron(4, 3, 2), (4,), batch_size=5, num_classes=2)
    # Layers of 12 and 9 products: 2·12 + 3·9 = 51 of an example, and 6 of the head per pass.
    assert step.fedavg() == Work(
        bytes=4 * (6 * 35 + 5 * 4), operations=6 * 35 + 2 * 5 * (51 + 3 * 6)
    )
    # h = 7, T = 11, n = 3.
    assert step.hyperfl(7, 11, 3) == Work(
        bytes=4 * (15 * 27 / 3 + 10 * 27 + 4 * 27 + 5 * 4),
        operations=4 * 27 * 7 + 2 * 27 * 10 + 2 * 5 * (51 + 2 * 6),
    )


def test_the_floor_of_a_convolution() -> None:
    """3×3 on 1×4×4 gives two maps of 2×2, so 8 outputs of 9 products; then 8 → 5."""
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 5))
    step = Step(module, (1, 4, 4), batch_size=1, num_classes=3)
    size = 2 * 9 + 2 + 8 * 5 + 5 + 3 * 5 + 3
    assert step.fedavg().operations == 6 * size + 2 * (2 * 72 + 3 * 40 + 3 * 15)


@pytest.mark.parametrize(("rates", "expected"), [(Rates(10, 1000), 2.0), (Rates(1000, 6), 5.0)])
def test_a_floor_is_what_takes_longer(rates: Rates, expected: float) -> None:
    assert Work(bytes=20, operations=30).seconds(rates) == expected


def test_the_benchmark_runs_on_a_cpu() -> None:
    found = measure(torch.device("cpu"), counts=(2, 4), num_examples=50, repeats=1, side=64)
    rows = {one.what: one.value for one in found}
    assert all(value > 0 for value in rows.values())
    assert rows["HyperFL, 4 clients together / FedAvg"] == pytest.approx(
        rows["HyperFL, 4 clients together"] / rows["FedAvg, one client after the other"]
    )
    # The same network, but W is read once for all.
    assert rows["floor: HyperFL, 4 clients together"] <= rows["floor: HyperFL, one client alone"]
    assert {one.what for one in found if one.unit == "ms" and "floor" not in one.what} == {
        "HyperFL, one client alone",
        "HyperFL, 2 clients, gradients one after the other",
        "HyperFL, 2 clients together",
        "HyperFL, 4 clients together",
        "FedAvg, one client after the other",
    }
