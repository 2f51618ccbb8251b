"""The layout of θ: which tensor lies where, and which shapes fit."""

from __future__ import annotations

import pytest
import torch

from worker.models.layout import ParameterLayout, TrainableTensor, check_shapes

TENSORS = [
    TrainableTensor("convolution.weight", (20, 10, 5, 5), 0.0, 0.05),
    TrainableTensor("normalisation.weight", (30,), 1.0, 0.0),
    TrainableTensor("linear.weight", (40, 50), 0.0, 0.2),
]


def test_the_layout_splits_without_copying() -> None:
    layout = ParameterLayout(TENSORS)
    flat = torch.arange(float(layout.num_parameters))
    parts = layout.split(flat)
    assert {name: tuple(part.shape) for name, part in parts.items()} == {
        tensor.name: tensor.shape for tensor in TENSORS
    }
    assert torch.equal(torch.cat([part.reshape(-1) for part in parts.values()]), flat)
    parts["linear.weight"][0, 0] = -1
    assert flat[5030] == -1


def test_shapes_are_checked_one_by_one() -> None:
    expected = {"a": (2,), "b": (1, 3)}
    check_shapes({"a": torch.zeros(2), "b": torch.zeros(1, 3)}, expected)
    with pytest.raises(ValueError, match="tensor b is missing"):
        check_shapes({"a": torch.zeros(2)}, expected)
    with pytest.raises(ValueError, match=r"tensor b has shape \(3,\), not \(1, 3\)"):
        check_shapes({"a": torch.zeros(2), "b": torch.zeros(3)}, expected)
    with pytest.raises(ValueError, match="unexpected tensors: c"):
        check_shapes({"a": torch.zeros(2), "b": torch.zeros(1, 3), "c": torch.zeros(1)}, expected)
