"""How near a reconstruction comes: PSNR, SSIM, rank among candidates, and by how much by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import conv2d

Float64 = npt.NDArray[np.float64]
_LARGEST_PSNR = 60.0
"""Of images that agree to a thousandth of their range and less."""


def psnr(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Peak signal to noise ratio in dB (…) of pixels 0..1 (…, C, H, W); at most 60."""
    error = (first - second).square().flatten(-3).mean(-1)
    return (-10 * error.clamp(min=1e-12).log10()).clamp(max=_LARGEST_PSNR)


def psnr_matrix(candidates: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """PSNR (k, n) of every candidate (k, C, H, W) with every image (n, C, H, W)."""
    flat, other = candidates.flatten(1).double(), images.flatten(1).double()
    error = torch.cdist(flat, other, compute_mode="donot_use_mm_for_euclid_dist").square()
    return (-10 * (error / flat.shape[1]).clamp(min=1e-12).log10()).clamp(max=_LARGEST_PSNR)


def ssim(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Structural similarity (B,) of pixels 0..1 (B, C, H, W).

    Wang et al., "Image quality assessment", 2004: a Gaussian window of 11 with σ = 1.5, its
    constants (0.01)² and (0.03)², the mean over all places where the window fits. For images
    smaller than the window it is as large as they are.
    """
    channels, height, width = first.shape[1:]
    size = min(11, height, width)
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    line = torch.exp(-place.square() / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum().square()
    kernel = window.expand(channels, 1, size, size)

    def local(images: torch.Tensor) -> torch.Tensor:
        return conv2d(images, kernel, groups=channels)

    one, two = first.double(), second.double()
    mean_one, mean_two = local(one), local(two)
    variance_one = local(one * one) - mean_one.square()
    variance_two = local(two * two) - mean_two.square()
    covariance = local(one * two) - mean_one * mean_two
    similarity = ((2 * mean_one * mean_two + 1e-4) * (2 * covariance + 9e-4)) / (
        (mean_one.square() + mean_two.square() + 1e-4) * (variance_one + variance_two + 9e-4)
    )
    return similarity.mean(dim=(1, 2, 3))


def ranks(reconstructions: torch.Tensor, images: torch.Tensor, others: torch.Tensor) -> Float64:
    """The place (n,) of each image among itself and ``others`` by distance to a reconstruction.

    1 is the first. Distances are Euclidean in pixels; an image counts itself after its equals.
    """
    flat = reconstructions.flatten(1).double()
    own = (flat - images.flatten(1).double()).square().sum(1)
    away = torch.cdist(flat, others.flatten(1).double()).square()
    return (1 + (away <= own[:, None]).sum(1)).numpy().astype(np.float64)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} ({self.low:.1f} to {self.high:.1f})"


def bootstrap(values: Float64, seed: int = 0, draws: int = 2000) -> Interval:
    """The mean of ``values`` (n,) with its percentile bootstrap interval (Efron, 1979)."""
    generator = np.random.default_rng(seed)
    means = generator.choice(values, (draws, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """The probability of so many successes or more."""
    if probability >= 1.0:
        return 1.0
    return sum(
        math.comb(trials, count) * probability**count * (1 - probability) ** (trials - count)
        for count in range(successes, trials + 1)
    )


def roc(members: Float64, others: Float64) -> tuple[float, float]:
    """Area under the ROC curve, and the true positive rate at a false positive rate of 1 %.

    Higher scores say member. Ties count half in the area.
    """
    differences = members[:, None] - others[None, :]
    area = float((differences > 0).mean() + 0.5 * (differences == 0).mean())
    threshold = np.quantile(others, 0.99, method="higher")
    return area, float((members > threshold).mean())
