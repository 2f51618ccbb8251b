"""A client's classifier head, private to the client: a linear layer, or two.

Where a feature extractor says so, a hidden layer with leaky ReLU comes before the linear one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, leaky_relu, linear

from worker.data.client_data import Batch
from worker.methods.local_round.random_streams import drawn_uniformly
from worker.methods.local_round.sgd import Descent, SGDSettings, gradients_of
from worker.models.layout import TrainableTensor


@dataclass(frozen=True, eq=False)
class Head:
    """Weight and bias of each layer by private name: as :func:`head_shapes` says."""

    tensors: Mapping[str, torch.Tensor]

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """(B, classes) of features (B, width)."""
        return _logits(self.tensors, features)

    def loss(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of features (B, width) and labels (B,)."""
        return cross_entropy(self.logits(features), labels)

    def like(self, tensor: torch.Tensor) -> Head:
        """The same head on the device and in the precision of ``tensor``."""
        return Head({name: one.to(tensor) for name, one in self.tensors.items()})


def head_shapes(
    num_classes: int, feature_width: int, hidden_width: int | None
) -> dict[str, tuple[int, ...]]:
    """A head's tensors: ``head.weight``, ``head.bias``; those of ``head.hidden`` if it has one."""
    width = hidden_width or feature_width
    shapes: dict[str, tuple[int, ...]] = {
        "head.weight": (num_classes, width),
        "head.bias": (num_classes,),
    }
    if hidden_width is not None:
        shapes |= {
            "head.hidden.weight": (hidden_width, feature_width),
            "head.hidden.bias": (hidden_width,),
        }
    return shapes


def initial_bound(shapes: Mapping[str, tuple[int, ...]], name: str) -> float:
    """Half the range that a head's tensor starts in, as linear layers do by default: 1/√inputs."""
    return 1 / math.sqrt(shapes[f"{name.rpartition('.')[0]}.weight"][1])


def head_tensors(
    num_classes: int, feature_width: int, hidden_width: int | None
) -> list[TrainableTensor]:
    """A head's tensors as :func:`head_shapes` has them, with the ranges that they start in."""
    shapes = head_shapes(num_classes, feature_width, hidden_width)
    return [
        TrainableTensor(name, shape, 0.0, initial_bound(shapes, name))
        for name, shape in shapes.items()
    ]


def initial_head(
    shapes: Mapping[str, tuple[int, ...]], generator: np.random.Generator
) -> dict[str, torch.Tensor]:
    """float32 tensors on the CPU, drawn as linear layers are by default: U(±1/√inputs)."""
    tensors = {}
    for name, shape in shapes.items():
        bound = initial_bound(shapes, name)
        tensors[name] = drawn_uniformly(shape, bound, generator)
    return tensors


def head_module(tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """The head as a module of its own, in evaluation mode, with copies of its tensors."""
    names = ["head.hidden", "head"] if "head.hidden.weight" in tensors else ["head"]
    layers: list[nn.Module] = []
    for name in names:
        num_outputs, num_inputs = tensors[f"{name}.weight"].shape
        layer = nn.Linear(num_inputs, num_outputs)
        layer.load_state_dict(
            {part: tensors[f"{name}.{part}"].detach() for part in ("weight", "bias")}
        )
        layers += [nn.LeakyReLU(), layer] if layers else [layer]
    module = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
    return module.eval().requires_grad_(False)


def train_head(
    head: Head,
    batches: list[Batch],
    *,
    epochs: int,
    settings: SGDSettings,
    generator: np.random.Generator,
) -> Head:
    """The head after ``epochs`` of SGD on features that do not change.

    Args:
        head: where to start; not changed.
        batches: features (B, width) and labels (B,), one epoch in the order of the first.
        epochs: how many; those after the first reorder the examples.
        settings: of the descent.
        generator: of the later epochs' orders.
    """
    parameters = {name: tensor.clone() for name, tensor in head.tensors.items()}
    descent = Descent(parameters, settings)
    for epoch in range(epochs):
        for features, labels in batches if epoch == 0 else _reordered(batches, generator):
            leaves = {name: one.detach().requires_grad_() for name, one in parameters.items()}
            loss = Head(leaves).loss(features, labels)
            descent.step(gradients_of(loss, leaves))
    return Head(parameters)


def _logits(tensors: Mapping[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    if "head.hidden.weight" in tensors:
        features = leaky_relu(
            linear(features, tensors["head.hidden.weight"], tensors["head.hidden.bias"])
        )
    return linear(features, tensors["head.weight"], tensors["head.bias"])


def _reordered(batches: list[Batch], generator: np.random.Generator) -> list[Batch]:
    features = torch.cat([features for features, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    order = torch.from_numpy(generator.permutation(len(labels))).to(labels.device)
    size = len(batches[0][1])
    return [(features[part], labels[part]) for part in torch.split(order, size)]
