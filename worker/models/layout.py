"""Where each trainable tensor of a feature extractor lies in one flat vector."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TrainableTensor:
    """One tensor of the feature extractor, as a hypernetwork generates it.

    Attributes:
        name: its name in the extractor.
        shape: its shape in the extractor.
        centre: middle of the range its values have at the start.
        bound: half the width of that range.
    """

    name: str
    shape: tuple[int, ...]
    centre: float
    bound: float

    @property
    def num_elements(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)


class ParameterLayout:
    """Where each generated tensor lies in the flat θ (P,): one after another, in order."""

    def __init__(self, tensors: Sequence[TrainableTensor]) -> None:
        self.tensors = tuple(tensors)
        self.num_parameters = sum(tensor.num_elements for tensor in tensors)
        self._sizes = [tensor.num_elements for tensor in tensors]

    def split(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of ``flat`` (P,) with the generated tensors' names and shapes."""
        parts = torch.split(flat, self._sizes)
        return {
            tensor.name: part.view(tensor.shape)
            for tensor, part in zip(self.tensors, parts, strict=True)
        }


def check_shapes(
    tensors: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ValueError at the first name or shape of ``tensors`` that is not the expected one."""
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise ValueError(f"unexpected tensors: {', '.join(unknown)}")
    for name, shape in expected.items():
        if name not in tensors:
            raise ValueError(f"tensor {name} is missing")
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"tensor {name} has shape {tuple(tensors[name].shape)}, not {shape}")
