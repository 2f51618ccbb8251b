"""What a client's extractor was, and where it moved, read off its update.

A HyperFL update is Δφ of φ = (A, a, W, b) with θ = b + W f, f = feature_scale · relu(A v + a).
Every step adds c vᵀ to A and c to a, and g fᵀ to W and g to b with g = ∂L/∂θ. So the embedding v,
θ and the sum of the g are in it (Phong et al., "Privacy-Preserving Deep Learning via Additively
Homomorphic Encryption", 2018, have the same of a linear layer's input). Factors and half precision
change little of that. Where b alone is shared, v is not in it. With differential
privacy for examples g is of the extractor of no client, under a head that everybody knows.

An update of pfedhn is one such step, with the change of extractor and head in the place of −g. One
of fedpac is a change of the extractor, and says head and class shares as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from shared.arrays import Array
from shared.federation.sharing import CLIENTS_TABLE, OUTPUT_BIAS
from shared.tensors.low_rank import FactoredDelta, Float64
from worker.attacks.observation import Observation, without_decayed_share
from worker.methods.collaboration.table import RowLayout
from worker.methods.fedpac import FedPAC
from worker.methods.hyperfl import HyperFL
from worker.methods.hypernetwork.public_head import (
    ROW_NORM,
    ROW_NORM_OF_PRIVATE_STEPS,
    public_head,
)
from worker.methods.hypernetwork.weights import (
    TRUNK_BIAS,
    TRUNK_WEIGHT,
    HypernetworkWeights,
    hidden_features,
)
from worker.methods.interface import SiteResources
from worker.methods.local_round.client import HEAD_PREFIX
from worker.methods.pfedhn import PFedHN
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
        class_shares: of the examples (C,), float64, where the update says them.
    """

    before: Tensors
    gradient: Tensors
    movement: float = 1.0
    embedding: torch.Tensor | None = None
    head: Tensors | None = None
    head_gradient: Tensors | None = None
    class_shares: Float64 | None = None

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
    if method is not None and issubclass(method, PFedHN):
        return _of_generated_model(observation)
    if method is not None and issubclass(method, FedPAC):
        return _of_model_and_row(observation)
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


def _of_model_and_row(observation: Observation) -> ExtractorChange:
    table = observation.weights[CLIENTS_TABLE] + _dense(observation, CLIENTS_TABLE)
    plan = observation.plan
    template = build_feature_extractor(plan.model, plan.image_shape, observation.allowed_imports)
    rows = RowLayout(plan.num_classes, template.feature_width).rows(torch.from_numpy(table))
    # The extractor's steps are under the very head that the row says.
    head = {name: torch.from_numpy(each[0]).float() for name, each in rows.heads.items()}
    return replace(_of_model(observation), head=head, class_shares=rows.frequencies[0])


def _of_generated_model(observation: Observation) -> ExtractorChange:
    resources = SiteResources(allowed_imports=observation.allowed_imports)
    method = PFedHN(observation.plan, _CPU, resources)
    weights = method.read(observation.weights)
    scale = float(observation.plan.hyperparameters["feature_scale"])
    embedding = _embedding(_dense(observation, TRUNK_WEIGHT), _dense(observation, TRUNK_BIAS))
    theta, _ = _generated(weights, embedding, scale)
    # Decay takes its share of θ, not of φ; where the step was clipped, Δθ is larger than it seems.
    rate = float(observation.plan.hyperparameters["hypernetwork_learning_rate"])
    change = _dense(observation, OUTPUT_BIAS) / np.float32(rate)
    decays = bool(observation.plan.hyperparameters.get("weight_decay"))
    learned = without_decayed_share(theta.numpy(), change) if decays else change
    before, gradient = method.layout.split(theta), method.layout.split(-torch.from_numpy(learned))
    return ExtractorChange(
        _stripped(before),
        _stripped(gradient),
        embedding=embedding,
        head=_with(before, HEAD_PREFIX),
        head_gradient=_with(gradient, HEAD_PREFIX),
    )


def _of_hypernetwork(observation: Observation) -> ExtractorChange:
    resources = SiteResources(allowed_imports=observation.allowed_imports)
    method = HyperFL(observation.plan, _CPU, resources)
    weights = method.read(observation.weights)
    scale = float(observation.plan.hyperparameters["feature_scale"])
    embedding = None
    if TRUNK_BIAS in observation.changes:
        embedding = _embedding(observation.learned(TRUNK_WEIGHT), observation.learned(TRUNK_BIAS))
    movement, head = 1.0, None
    privacy = observation.plan.privacy
    if privacy is not None and privacy.unit == "example":
        theta = weights.generate(
            weights.trunk_weight.new_zeros(weights.trunk_weight.shape[1]), scale
        )
        head = _public_head(observation, ROW_NORM_OF_PRIVATE_STEPS)
    else:
        theta, features = _generated(weights, embedding, scale)
        if embedding is not None:
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


def _generated(
    weights: HypernetworkWeights, embedding: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """θ (P,) and f (h,) of an embedding; where it is unknown, the mean of all first ones' f.

    What is a client's own in θ then stays unknown.
    """
    size, trunk = weights.trunk_weight.shape[1], (weights.trunk_weight, weights.trunk_bias)
    if embedding is None:
        drawn = torch.Generator().manual_seed(0)
        guesses = torch.randn(_GUESSED_EMBEDDINGS, size, generator=drawn)
        features = hidden_features(*trunk, guesses, scale).mean(0)
    else:
        features = hidden_features(*trunk, embedding, scale)
    return weights.output_bias + weights.output_weight @ features, features


def _embedding(weight: Array, bias: Array) -> torch.Tensor | None:
    """The embedding (e,) in the changes of A and a: A's is c vᵀ where a's is c; None if c is 0."""
    c, outer = torch.from_numpy(bias).double(), torch.from_numpy(weight).double()
    size = float(c @ c)
    return (c @ outer / size).float() if size > 0 else None


def _dense(observation: Observation, name: str) -> Array:
    """A change that has no factors."""
    change = observation.changes[name]
    if isinstance(change, FactoredDelta):
        raise ValueError(f"the change of {name} is in factors")
    return change


def _tensors(arrays: Mapping[str, object]) -> Tensors:
    return {name: torch.tensor(array) for name, array in arrays.items()}


def _with(tensors: Tensors, prefix: str) -> Tensors:
    return {name: one for name, one in tensors.items() if name.startswith(prefix)}


def _stripped(tensors: Tensors) -> Tensors:
    found = _with(tensors, EXTRACTOR_PREFIX)
    return {name.removeprefix(EXTRACTOR_PREFIX): one for name, one in found.items()}
