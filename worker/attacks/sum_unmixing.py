"""Each client's part of a cohort's sum, found again.

The sum of HyperFL updates is Σ pᵢ gᵢ fᵢᵀ for W and Σ pᵢ gᵢ for b: mixtures, in h + 1 columns, of as
many vectors gᵢ as there are clients. Three ways lead to the gᵢ:

- a column is one client's own where the others' features are zero behind ReLU: nothing to compute;
- blind: independent component analysis, for the gᵢ have heavy tails and are all but independent
  (Kariyappa et al., "Cocktail Party Attack", ICML 2023, for the examples of a batch);
- with features that are known from an update seen in the clear: least squares of least norm.

Where b alone is shared there is one column, and nothing but the sum to see.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from shared.federation.sharing import OUTPUT_BIAS
from worker.attacks.extractor_change import ExtractorChange, network_layout
from worker.attacks.observation import Observation
from worker.methods.hyperfl import HyperFL
from worker.methods.hypernetwork.weights import OUTPUT_WEIGHT
from worker.methods.interface import SiteResources

Float64 = npt.NDArray[np.float64]


def columns_of(observation: Observation) -> Float64:
    """The sum's columns (P, k): of W's change, where W is shared, and b's as the last."""
    bias = observation.learned(OUTPUT_BIAS).astype(np.float64)[:, None]
    if OUTPUT_WEIGHT not in observation.changes:
        return bias
    return np.concatenate([observation.learned(OUTPUT_WEIGHT).astype(np.float64), bias], axis=1)


def unmix_blind(columns: Float64, num_clients: int, seed: int = 0) -> Float64:
    """Candidates (k, P) for the clients' parts, each times any number.

    The columns themselves, and the independent components of as many as there are clients.
    """
    from sklearn.decomposition import FastICA  # noqa: PLC0415 - slow to import

    candidates = [columns.T]
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    rank = min(num_clients, int((values > 1e-6 * values[0]).sum()))
    if rank > 1:
        analysis = FastICA(rank, whiten="unit-variance", max_iter=500, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a search that does not converge is one that fails
            candidates.append(analysis.fit_transform(left[:, :rank] * values[:rank]).T)
    return np.concatenate(candidates)


def unmix_known(columns: Float64, features: Float64) -> Float64:
    """The clients' parts (n, P) for the columns' weights of each client: ``features`` (n, k)."""
    parts: Float64 = (columns @ np.linalg.pinv(features)).T
    return parts


def best_cosines(candidates: Float64, parts: Sequence[Float64]) -> Float64:
    """Of each client's part (P,), the largest |cosine| with a candidate (k, P)."""
    sizes = np.linalg.norm(candidates, axis=1, keepdims=True)
    directions = candidates[sizes[:, 0] > 0] / sizes[sizes[:, 0] > 0]
    return np.array([np.abs(directions @ part).max() / np.linalg.norm(part) for part in parts])


def changes_in_sum(
    observation: Observation, num_clients: int, seed: int = 0
) -> list[ExtractorChange]:
    """The clients' extractors, as far as a sum comes apart; empty where it has one column.

    With the gᵢ come the fᵢ, up to the same factor: their last element is 1.
    """
    columns = columns_of(observation)
    if columns.shape[1] == 1:
        return []
    parts = unmix_blind(columns, num_clients, seed)[columns.shape[1] :]
    features = columns.T @ np.linalg.pinv(parts)
    resources = SiteResources(allowed_imports=observation.allowed_imports)
    weights = HyperFL(observation.plan, torch.device("cpu"), resources).read(observation.weights)
    layout = network_layout(observation)
    found = []
    for part, lifted in zip(parts, features.T, strict=True):
        if abs(lifted[-1]) < 1e-12:
            continue
        own = torch.from_numpy(lifted[:-1] / lifted[-1]).float()
        theta = weights.output_bias + weights.output_weight @ own
        gradient = torch.from_numpy(-part * lifted[-1]).float()
        movement = 1 + float(own.square().sum())
        found.append(ExtractorChange(layout.split(theta), layout.split(gradient), movement))
    return found
