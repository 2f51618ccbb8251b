"""ROG: the search of IG in fewer dimensions.

Yue et al., "Gradient Obfuscation Gives a False Sense of Security in Federated Learning", USENIX
Security 2023: images are sought at a fraction of their size and enlarged by bicubic interpolation,
so that there are fewer unknowns. Their last step, a network that was trained on other images to
sharpen the result, is **not** here: no trained network comes with this project. So what this
reaches is less than ROG could.
"""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from worker.attacks import gradient_inversion
from worker.attacks.extractor_change import ExtractorChange
from worker.attacks.image_search import PixelRange
from worker.attacks.network import Network

_REDUCTION = 2


def invert(
    network: Network,
    change: ExtractorChange,
    labels: torch.Tensor,
    pixel_range: PixelRange,
    *,
    iterations: int,
    seed: int = 0,
) -> torch.Tensor:
    """Reconstructions: pixels 0..1 (k, C, H, W); arguments as IG's, whose head is drawn."""
    channels, height, width = network.image_shape

    def enlarged(small: torch.Tensor) -> torch.Tensor:
        size = (height, width)
        return interpolate(small, size=size, mode="bicubic", align_corners=False)

    return gradient_inversion.invert(
        network,
        change,
        labels,
        pixel_range,
        iterations=iterations,
        seed=seed,
        pixels_of=enlarged,
        variable_shape=(channels, -(-height // _REDUCTION), -(-width // _REDUCTION)),
    )
