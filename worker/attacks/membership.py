"""Whether an image was in a round: by whether the linear layer's gradient contains it.

A layer's gradient is Σ δᵢ xᵢᵀ over the round's examples, so the x of a member lies in the space of
its rows, as far as the rows do not fill all of it and rounding does not cover it. Head and labels
have no part in it. The score is the share of x in that space, the components that rounding covers
left out, in coordinates in which inputs of public images are white: there a stranger has no larger
a share in it than by its dimension. Some images score high under every update; their scores are
compared with those under updates of shadow clients that did not have them (Shokri et al.,
"Membership Inference Attacks Against Machine Learning Models", S&P 2017). This project's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from worker.attacks.extractor_change import ExtractorChange
from worker.attacks.network import Network

Float64 = npt.NDArray[np.float64]
_RIDGE = 1e-4
_ROUNDING = 1e-3
"""Of half precision, relative to the largest component."""
_BATCH = 256


class MembershipTest:
    """Scores of images under updates that were made from the same weights."""

    def __init__(
        self, network: Network, parameters: Mapping[str, torch.Tensor], reference: torch.Tensor
    ) -> None:
        """Learn what inputs are like.

        Args:
            network: with a linear layer.
            parameters: of the extractor, before the round.
            reference: normalised images (n, C, H, W) that are public, and are not scored.
        """
        self._network, self._parameters = network, parameters
        inputs = self._inputs(reference)
        values, vectors = np.linalg.eigh(inputs.T @ inputs / len(inputs))
        ridge = _RIDGE * values.sum() / len(values)
        self._whitening = vectors / np.sqrt(np.maximum(values, 0) + ridge)

    def scores(self, change: ExtractorChange, images: torch.Tensor) -> Float64:
        """Log odds (n,) of the share of normalised images (n, C, H, W) that is in the update."""
        rows = self._network.linear_gradient(change.gradient) @ self._whitening
        _, values, directions = np.linalg.svd(rows, full_matrices=False)
        kept = values**2 / (values**2 + (_ROUNDING * max(values[0], 1e-300)) ** 2)
        inputs = self._inputs(images) @ self._whitening
        share = ((inputs @ directions.T) ** 2 * kept).sum(axis=1) / (inputs**2).sum(axis=1)
        share = np.clip(share, 1e-9, 1 - 1e-9)
        scores: Float64 = np.log(share / (1 - share))
        return scores

    def _inputs(self, images: torch.Tensor) -> Float64:
        with torch.no_grad():
            parts = [
                self._network.linear_inputs(self._parameters, part)
                for part in torch.split(images, _BATCH)
            ]
        inputs = torch.cat(parts).double().numpy()
        return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)


def calibrated(scores: Float64, shadow_scores: Sequence[Float64]) -> Float64:
    """Scores (n,) less the mean of those under updates of shadow clients, each (n,)."""
    difference: Float64 = scores - np.mean(shadow_scores, axis=0)
    return difference
