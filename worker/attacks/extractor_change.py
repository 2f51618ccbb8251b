"""What a client's extractor was, and where it moved, read off its update.

A HyperFL update is Δφ of φ = (A, a, W, b) with θ = b + W f, f = feature_scale · relu(A v + a).
Every step adds c vᵀ to A and c to a, and g fᵀ to W and g to b with g = ∂L/∂θ. So the embedding v,
θ and the sum of the g are in it (Phong et al., "Privacy-Preserving Deep Learning via Additively
Homomorphic Encryption", 2018, have the same of a linear layer's input). Factors and half precision
change little of that. Where b alone is shared, v is not in it. With differential
privacy for examples g is of the extractor of no client, under a head that everybody knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from shared.federation.sharing import OUTPUT_BIAS
from worker.attacks.observation import Observation
from worker.methods.hyperfl import HyperFL
from worker.methods.hypernetwork.public_head import (
    ROW_NORM,
    ROW_NORM_OF_PRIVATE_STEPS,
    public_head,
)
from worker.methods.hypernetwork.weights import (
    TRUNK_BIAS,
    TRUNK_WEIGHT,
    hidden_features,
)
from worker.methods.interface import SiteResources
from worker.methods.local_round.client import HEAD_PREFIX
from worker.methods.registry import METHODS
from worker.methods.whole_model.client import EXTRACTOR_PREFIX
from worker.methods.whole_model.method import ModelMethod
from worker.models.initial_ranges import generated_tensors
from worker.models.layout import ParameterLayout
from worker.models.registry import build_feature_extractor

_CPU = torch.device("cpu")
_GUESSED_EMBEDDINGS = 256
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class ExtractorChange:
    """An extractor as an attacker knows it.

    Attributes:
        before: the parameters that training started from, by their names in the extractor.
        gradient: of the loss by these, summed over the round's steps, times some positive number.
        movement: how many times the gradient the parameters moved, against it.
        embedding: v (e,), where the update shows it.
        head: the head's parameters before, where everybody knows them.
        head_gradient: of the loss by these, times the same number.
    """

    before: Tensors
    gradient: Tensors
    movement: float = 1.0
    embedding: torch.Tensor | None = None
    head: Tensors | None = None
    head_gradient: Tensors | None = None

    @property
    def after(self) -> Tensors:
        """The parameters that training ended with."""
        return {
            name: one - self.movement * self.gradient[name] for name, one in self.before.items()
        }


def read_extractor_change(observation: Observation) -> ExtractorChange:
    """What the update shows.

    Raises:
        ValueError: the method is not known here, or shares no extractor.
    """
    method = METHODS.get(observation.plan.method)
    if method is not None and issubclass(method, HyperFL):
        return _of_hypernetwork(observation)
    if method is not None and issubclass(method, ModelMethod) and method.shares_extractor:
        return _of_model(observation)
    raise ValueError(f"what updates of method {observation.plan.method} show is not known")


def network_layout(observation: Observation) -> ParameterLayout:
    """Where each of the extractor's parameters lies in θ."""
    plan = observation.plan
    extractor = build_feature_extractor(plan.model, plan.image_shape, observation.allowed_imports)
    return ParameterLayout(generated_tensors(extractor.module))


def _of_model(observation: Observation) -> ExtractorChange:
    before = _tensors(observation.weights)
    gradient = {name: -torch.from_numpy(observation.learned(name)) for name in before}
    heads = (_with(before, HEAD_PREFIX), _with(gradient, HEAD_PREFIX))
    head, head_gradient = (one or None for one in heads)
    return ExtractorChange(
        _stripped(before), _stripped(gradient), head=head, head_gradient=head_gradient
    )


def _of_hypernetwork(observation: Observation) -> ExtractorChange:
    resources = SiteResources(allowed_imports=observation.allowed_imports)
    method = HyperFL(observation.plan, _CPU, resources)
    weights = method.read(observation.weights)
    scale = float(observation.plan.hyperparameters["feature_scale"])
    embedding = _embedding(observation)
    movement, head = 1.0, None
    privacy = observation.plan.privacy
    if privacy is not None and privacy.unit == "example":
        theta = weights.generate(
            weights.trunk_weight.new_zeros(weights.trunk_weight.shape[1]), scale
        )
        head = _public_head(observation, ROW_NORM_OF_PRIVATE_STEPS)
    elif embedding is None:
        # Of all clients' first embeddings; what is the client's own in θ stays unknown.
        guesses = torch.randn(
            _GUESSED_EMBEDDINGS,
            weights.trunk_weight.shape[1],
            generator=torch.Generator().manual_seed(0),
        )
        features = hidden_features(weights.trunk_weight, weights.trunk_bias, guesses, scale).mean(0)
        theta = weights.output_bias + weights.output_weight @ features
    else:
        features = hidden_features(weights.trunk_weight, weights.trunk_bias, embedding, scale)
        theta = weights.output_bias + weights.output_weight @ features
        # Each step adds g fᵀ to W and g to b, so f f of it to θ beside that of b.
        movement += float(features.square().sum())
    if observation.plan.hyperparameters.get("training_head") == "public":
        head = _public_head(observation, ROW_NORM)
    layout = network_layout(observation)
    gradient = -torch.from_numpy(observation.learned(OUTPUT_BIAS))
    return ExtractorChange(layout.split(theta), layout.split(gradient), movement, embedding, head)


def _public_head(observation: Observation, row_norm: float) -> Tensors:
    plan = observation.plan
    template = build_feature_extractor(plan.model, plan.image_shape, observation.allowed_imports)
    weight = public_head(plan.num_classes, template.feature_width, row_norm)
    return {"head.weight": weight, "head.bias": weight.new_zeros(plan.num_classes)}


def _embedding(observation: Observation) -> torch.Tensor | None:
    """The embedding (e,) in the trunk's changes: A's is c vᵀ where a's is c."""
    if TRUNK_BIAS not in observation.changes:
        return None
    bias = torch.from_numpy(observation.learned(TRUNK_BIAS)).double()
    weight = torch.from_numpy(observation.learned(TRUNK_WEIGHT)).double()
    size = float(bias @ bias)
    return (bias @ weight / size).float() if size > 0 else None


def _tensors(arrays: Mapping[str, object]) -> Tensors:
    return {name: torch.tensor(array) for name, array in arrays.items()}


def _with(tensors: Tensors, prefix: str) -> Tensors:
    return {name: one for name, one in tensors.items() if name.startswith(prefix)}


def _stripped(tensors: Tensors) -> Tensors:
    found = _with(tensors, EXTRACTOR_PREFIX)
    return {name.removeprefix(EXTRACTOR_PREFIX): one for name, one in found.items()}
