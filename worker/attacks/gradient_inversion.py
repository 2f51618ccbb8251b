"""IG: images whose gradient points where the update does.

Geiping et al., "Inverting Gradients: How easy is it to break privacy in federated learning?",
NeurIPS 2020: minimise 1 − cos(∂L/∂θ(x), update) + total variation by Adam on the signs of the
gradients, pixels kept in range. What the update does not show is drawn as a client draws it, the
head above all, as in the HyperFL paper's Table 3; or, with ``fits_head``, sought with the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from worker.attacks.extractor_change import ExtractorChange
from worker.attacks.image_search import PixelRange, descend, total_variation
from worker.attacks.network import Network

_VARIATION = 1e-2
_LEARNING_RATE = 0.1


def invert(
    network: Network,
    change: ExtractorChange,
    labels: torch.Tensor,
    pixel_range: PixelRange,
    *,
    iterations: int,
    fits_head: bool = False,
    seed: int = 0,
    pixels_of: Callable[[torch.Tensor], torch.Tensor] = lambda given: given,
    variable_shape: Sequence[int] | None = None,
) -> torch.Tensor:
    """Reconstructions: pixels 0..1 (k, C, H, W), one for each label.

    Args:
        network: of the clients.
        change: what the update showed.
        labels: of the images (k,), which the attack is told: the strongest it can have.
        pixel_range: of the network's images.
        iterations: of the search.
        fits_head: seek a head that is unknown with the images, instead of drawing it.
        seed: of what is drawn.
        pixels_of: pixels of what is sought; by default these themselves.
        variable_shape: of what is sought for one image, where it is not (C, H, W).
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (len(labels), *(variable_shape or network.image_shape))
    sought = torch.rand(shape, generator=generator).requires_grad_()
    head = change.head or network.drawn_head(seed)
    parameters = {name: one.clone().requires_grad_() for name, one in change.before.items()}
    head = {name: one.clone().requires_grad_() for name, one in head.items()}
    targets = list(change.gradient.values())
    by = list(parameters.values())
    if change.head_gradient is not None:
        targets += [change.head_gradient[name] for name in head]
        by += list(head.values())
    variables = [sought] + (list(head.values()) if fits_head and change.head is None else [])

    def loss() -> torch.Tensor:
        pixels = pixels_of(sought)
        images = pixel_range.normalised(pixels)
        gradients = torch.autograd.grad(
            network.loss(parameters, head, images, labels), by, create_graph=True
        )
        return cosine_distance(gradients, targets) + _VARIATION * total_variation(pixels)

    def keep_in_range() -> None:
        sought.clamp_(0.0, 1.0)

    descend(
        variables,
        loss,
        iterations=iterations,
        learning_rate=_LEARNING_RATE,
        signed=True,
        after_step=keep_in_range,
    )
    with torch.no_grad():
        return pixels_of(sought).clamp(0.0, 1.0)


def cosine_distance(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> torch.Tensor:
    """1 − cos of two lists of tensors, each list taken as one vector."""
    product = sum((one * other).sum() for one, other in zip(found, wanted, strict=True))
    sizes = sum(one.square().sum() for one in found), sum(one.square().sum() for one in wanted)
    distance: torch.Tensor = 1 - product / (torch.as_tensor(sizes[0]) * sizes[1]).sqrt().clamp(
        min=1e-20
    )
    return distance
