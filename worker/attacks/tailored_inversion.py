"""The HyperFL paper's tailored attack: image, embedding and head are sought together.

arXiv 2412.07187, where an attacker that knows φ before the round minimises the distance between
the update of φ and the gradient by φ of a dummy image under a dummy embedding and a dummy head.
The gradient by W is g fᵀ, so its products with the update's are of g and f alone and it is never
formed. The distance is IG's cosine (:mod:`worker.attacks.gradient_inversion`).
"""

from __future__ import annotations

import torch

from shared.federation.sharing import OUTPUT_BIAS
from worker.attacks.extractor_change import network_layout
from worker.attacks.image_search import PixelRange, descend, total_variation
from worker.attacks.network import Network
from worker.attacks.observation import Observation
from worker.methods.hyperfl import HyperFL
from worker.methods.hypernetwork.weights import (
    OUTPUT_WEIGHT,
    TRUNK_BIAS,
    TRUNK_WEIGHT,
    hidden_features,
)
from worker.methods.interface import SiteResources

_VARIATION = 1e-2
_LEARNING_RATE = 0.1


def invert(
    network: Network,
    observation: Observation,
    labels: torch.Tensor,
    pixel_range: PixelRange,
    *,
    iterations: int,
    seed: int = 0,
) -> torch.Tensor:
    """Reconstructions: pixels 0..1 (k, C, H, W), one for each label; of a hypernetwork's update.

    Args:
        network: of the clients.
        observation: of one client's update with all four tensors.
        labels: of the images (k,), which the attack is told.
        pixel_range: of the network's images.
        iterations: of the search.
        seed: of what is drawn.
    """
    resources = SiteResources(allowed_imports=observation.allowed_imports)
    method = HyperFL(observation.plan, torch.device("cpu"), resources)
    weights = method.read(observation.weights)
    scale = float(observation.plan.hyperparameters["feature_scale"])
    layout = network_layout(observation)
    wanted = {
        name: -torch.from_numpy(observation.learned(name))
        for name in (TRUNK_WEIGHT, TRUNK_BIAS, OUTPUT_WEIGHT, OUTPUT_BIAS)
    }
    wanted_size = torch.stack([one.square().sum() for one in wanted.values()]).sum().sqrt()
    generator = torch.Generator().manual_seed(seed)
    shape = (len(labels), *network.image_shape)
    pixels = torch.rand(shape, generator=generator).requires_grad_()
    size = weights.trunk_weight.shape[1]
    embedding = torch.randn(size, generator=generator).requires_grad_()
    head = {name: one.requires_grad_() for name, one in network.drawn_head(seed).items()}

    def loss() -> torch.Tensor:
        hidden = weights.trunk_weight @ embedding + weights.trunk_bias
        features = hidden_features(weights.trunk_weight, weights.trunk_bias, embedding, scale)
        theta = weights.output_bias + weights.output_weight @ features
        images = pixel_range.normalised(pixels)
        classified = network.loss(layout.split(theta), head, images, labels)
        (by_theta,) = torch.autograd.grad(classified, theta, create_graph=True)
        upstream = (weights.output_weight.T @ by_theta) * (hidden > 0) * scale
        product = (
            by_theta @ wanted[OUTPUT_WEIGHT] @ features
            + by_theta @ wanted[OUTPUT_BIAS]
            + upstream @ wanted[TRUNK_WEIGHT] @ embedding
            + upstream @ wanted[TRUNK_BIAS]
        )
        square = by_theta.square().sum() * (1 + features.square().sum()) + (
            upstream.square().sum() * (1 + embedding.square().sum())
        )
        distance = 1 - product / (square.sqrt() * wanted_size).clamp(min=1e-20)
        return distance + _VARIATION * total_variation(pixels)

    def keep_in_range() -> None:
        pixels.clamp_(0.0, 1.0)

    descend(
        [pixels, embedding, *head.values()],
        loss,
        iterations=iterations,
        learning_rate=_LEARNING_RATE,
        signed=True,
        after_step=keep_in_range,
    )
    return pixels.detach()
