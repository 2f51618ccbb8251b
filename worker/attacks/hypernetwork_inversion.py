"""Images from an update, the head unknown: closed form, then a search for the image.

θ and its gradient are read off the update (:mod:`worker.attacks.extractor_change`), the inputs of
the extractor's linear layer off that gradient (:mod:`worker.attacks.linear_layer`), and then images
are sought that the convolutions make those inputs of. The search starts at what a linear regression
from inputs to pixels says, learned from public images, which are no candidates of any baseline. The
head has no part in it. This project's own attack on HyperFL; it takes a plainly shared extractor,
too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from worker.attacks.extractor_change import ExtractorChange
from worker.attacks.image_search import PixelRange, descend, total_variation
from worker.attacks.linear_layer import recover_inputs
from worker.attacks.network import Network

_VARIATION = 0.05
_RIDGE = 1e-3
_LEARNING_RATE = 0.05


def invert(
    network: Network,
    change: ExtractorChange,
    num_examples: int,
    pixel_range: PixelRange,
    prior: torch.Tensor,
    *,
    iterations: int,
    seed: int = 0,
) -> torch.Tensor:
    """Reconstructions: pixels 0..1 (k, C, H, W) on the CPU; none where there is no linear layer.

    Args:
        network: of the clients.
        change: what the update showed.
        num_examples: images in the update.
        pixel_range: of the network's images.
        prior: pixels 0..1 (n, C, H, W) of public images.
        iterations: of the search.
        seed: of what is drawn.
    """
    if network.linear is None:
        return torch.zeros(0, *network.image_shape)
    found = recover_inputs(network.linear_gradient(change.gradient), num_examples, seed)
    if not len(found):
        return torch.zeros(0, *network.image_shape)
    inputs = torch.from_numpy(found).float()
    return images_of(network, change.before, inputs, pixel_range, prior, iterations=iterations)


def images_of(
    network: Network,
    parameters: Mapping[str, torch.Tensor],
    inputs: torch.Tensor,
    pixel_range: PixelRange,
    prior: torch.Tensor,
    *,
    iterations: int,
) -> torch.Tensor:
    """Pixels 0..1 (k, C, H, W) for which the linear layer is given ``inputs`` (k, n).

    ``parameters`` are the extractor's; the others as in :func:`invert`.
    """
    start = _regressed(network, parameters, inputs, pixel_range, prior)
    return _refined(network, parameters, inputs, pixel_range, start, iterations)


def _regressed(
    network: Network,
    parameters: Mapping[str, torch.Tensor],
    inputs: torch.Tensor,
    pixel_range: PixelRange,
    prior: torch.Tensor,
) -> torch.Tensor:
    """Pixels for the layer's ``inputs`` (k, n) by ridge regression over the public images."""
    # Moved by a pixel and mirrored they are as likely, and six times as many.
    moves = ((1, 0), (-1, 0), (0, 1), (0, -1))
    images = torch.cat(
        [prior, prior.flip(3), *(torch.roll(prior, move, dims=(2, 3)) for move in moves)]
    )
    with torch.no_grad():
        given = network.linear_inputs(parameters, pixel_range.normalised(images)).double()
    pixels = images.flatten(1).double()
    centre, mean = given.mean(0), pixels.mean(0)
    given = given - centre
    moment = given.T @ given
    ridge = _RIDGE * moment.trace() / len(moment) * torch.eye(len(moment), dtype=torch.float64)
    decoder = torch.linalg.solve(moment + ridge, given.T @ (pixels - mean))
    found: torch.Tensor = (inputs.double() - centre) @ decoder + mean
    return found.clamp(0.0, 1.0).float().reshape(-1, *network.image_shape)


def _refined(
    network: Network,
    parameters: Mapping[str, torch.Tensor],
    inputs: torch.Tensor,
    pixel_range: PixelRange,
    start: torch.Tensor,
    iterations: int,
) -> torch.Tensor:
    """Pixels (k, C, H, W) near ``start`` for which the layer is given ``inputs`` (k, n)."""
    parameters = {name: one.detach() for name, one in parameters.items()}
    pixels = start.clone().requires_grad_()
    scale = inputs.square().mean(dim=1).sqrt().clamp(min=1e-6)

    def loss() -> torch.Tensor:
        given = network.linear_inputs(parameters, pixel_range.normalised(pixels))
        error = ((given - inputs).abs().mean(dim=1) / scale).sum()
        return error + _VARIATION * len(pixels) * total_variation(pixels)

    def keep_in_range() -> None:
        pixels.clamp_(0.0, 1.0)

    descend(
        [pixels],
        loss,
        iterations=iterations,
        learning_rate=_LEARNING_RATE,
        after_step=keep_in_range,
    )
    return pixels.detach()
