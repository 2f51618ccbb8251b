"""How many examples of each class a client has, from how its update moves public images.

θ before and after the round are read off the update. What it does to the features of public images
of a class says how much of the class the client has: how far the class moves against the others,
how much further from its neighbours it lies, and how much of its images is in the update
(:mod:`worker.attacks.membership`). By how much is learned from shadow clients, whose examples the
attacker chooses from the public images and trains with an embedding and a head of its own (Shokri
et al., S&P 2017, for membership): a histogram is softmax(Σ βₖ zₖ) of the three, standardised. This
project's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from worker.attacks.extractor_change import ExtractorChange
from worker.attacks.membership import MembershipTest
from worker.attacks.network import Network

Float64 = npt.NDArray[np.float64]
_NEIGHBOURS = 3
_PENALTY = 1e-2


class ClassMovement:
    """What updates that were made from the same weights do to classes of public images."""

    def __init__(
        self,
        network: Network,
        membership: MembershipTest,
        images: torch.Tensor,
        labels: torch.Tensor,
    ) -> None:
        """Take the public images.

        Args:
            network: of the clients.
            membership: of images under these updates.
            images: normalised (n, C, H, W).
            labels: their classes (n,).
        """
        self._network, self._membership, self._images = network, membership, images
        of_class = torch.arange(network.num_classes)[:, None] == labels
        self._share = of_class.double() / of_class.sum(1, keepdim=True).clamp(min=1)
        self._is_known = of_class.any(1).numpy()

    def statistics(self, change: ExtractorChange) -> Float64:
        """Three of each class (3, classes), 0 for a class without a public image."""
        before, after = self._class_means(change.before), self._class_means(change.after)
        known = self._is_known
        moved = after - before
        apart = np.linalg.norm(moved - moved[known].mean(axis=0), axis=1)
        separation = _separation(after[known]) / np.maximum(_separation(before[known]), 1e-12)
        scores = self._share.numpy() @ self._membership.scores(change, self._images)
        found = np.zeros((3, len(known)))
        found[0, known] = np.log(np.maximum(apart[known], 1e-12))
        found[1, known] = np.log(np.maximum(separation, 1e-12))
        found[2, known] = scores[known]
        return found

    def _class_means(self, parameters: Mapping[str, torch.Tensor]) -> Float64:
        with torch.no_grad():
            features = self._network.features(parameters, self._images).double()
        means: Float64 = (self._share @ features).numpy()
        return means


def infer_histogram(
    statistics: Float64, shadow_statistics: Sequence[Float64], shadow_histograms: Sequence[Float64]
) -> Float64:
    """Shares of the classes (classes,), which add up to 1.

    Args:
        statistics: of the client's update (k, classes).
        shadow_statistics: of each shadow client's.
        shadow_histograms: shares of its classes.
    """
    shadows = np.array(shadow_statistics)
    centre, spread = shadows.mean(axis=0), shadows.std(axis=0) + 1e-9
    given = torch.from_numpy((shadows - centre) / spread)
    truth = torch.from_numpy(np.array(shadow_histograms))
    weights = torch.zeros(len(statistics), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([weights], max_iter=100)

    def loss() -> torch.Tensor:
        search.zero_grad()
        logits = torch.einsum("k,skc->sc", weights, given)
        cost = -(truth * logits.log_softmax(1)).sum(1).mean() + _PENALTY * weights.square().sum()
        cost.backward()  # type: ignore[no-untyped-call]
        return cost

    search.step(loss)  # type: ignore[no-untyped-call]
    logits = weights.detach() @ torch.from_numpy((statistics - centre) / spread)
    shares: Float64 = logits.softmax(0).numpy()
    return shares


def total_variation_distance(first: Float64, second: Float64) -> float:
    """Half the sum of absolute differences of two histograms: 0 for equal ones, at most 1."""
    return float(np.abs(first - second).sum() / 2)


def chance_of(inferred: Float64, truth: Float64, draws: int = 2000) -> float:
    """Share of the shuffles of an inferred histogram that are as near to the truth."""
    generator = np.random.default_rng(0)
    distance = total_variation_distance(inferred, truth)
    as_near = sum(
        total_variation_distance(generator.permutation(inferred), truth) <= distance + 1e-12
        for _ in range(draws)
    )
    return as_near / draws


def _separation(means: Float64) -> Float64:
    """Of each class mean (c, width), the mean distance (c,) to its nearest neighbours."""
    distances = np.linalg.norm(means[:, None] - means[None], axis=2)
    nearest: Float64 = np.sort(distances, axis=1)[:, 1 : 1 + _NEIGHBOURS].mean(axis=1)
    return nearest
