"""The inputs of a linear layer from its gradient: closed form, without the rest of the network.

The gradient of a layer y = W x + b over a batch is Σ δᵢ xᵢᵀ for W and Σ δᵢ for b. Of one example,
any row of the first divided by the same element of the second is x (Phong et al., "Privacy-
Preserving Deep Learning via Additively Homomorphic Encryption", 2018, section 3). Of several, the
rows are mixtures of the (xᵢ, 1), and two things tell them apart:

- where all but one of the δᵢ are zero, as behind ReLU or dropout, a row is one example's own; such
  rows agree with each other (Fowl et al., "Robbing the Fed", ICLR 2022, make networks for this);
- the δᵢ are independent of each other, so that independent component analysis separates them
  (Kariyappa et al., "Cocktail Party Attack", ICML 2023).
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

_AGREEMENT = 0.999
"""Cosine of two rows that are said to be one example's."""
_MOST_COMPONENTS = 24


def recover_inputs(lifted: Float64, num_examples: int, seed: int = 0) -> Float64:
    """Candidates (k, inputs) for the layer's inputs, the most trustworthy first.

    Args:
        lifted: the gradients of weight and bias (outputs, inputs + 1), times any number.
        num_examples: in the batch; more than this are sought where it is small.
        seed: of the component analysis.
    """
    if not np.isfinite(lifted).all() or not lifted[:, -1].any():
        return np.zeros((0, lifted.shape[1] - 1))
    mean = _input_of(lifted)[None]
    if num_examples == 1:
        return mean
    count = min(num_examples, _MOST_COMPONENTS)
    found = [_agreeing(lifted, count), _independent(lifted, count, seed), mean]
    return _distinct(np.concatenate(found))


def _agreeing(lifted: Float64, count: int) -> Float64:
    """Of each set of rows that point the same way, from the largest set on, their input."""
    size = np.abs(lifted[:, -1])
    rows = lifted[size > 1e-6 * size.max()]
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    agrees = np.abs(directions @ directions.T) > _AGREEMENT
    found: list[Float64] = []
    while len(found) < count:
        sizes = agrees.sum(axis=1)
        best = int(sizes.argmax())
        if sizes[best] < 2:
            break
        members = agrees[best].copy()
        # Some have a little of another example in them; the median has not.
        ratios = rows[members, :-1] / rows[members, -1:]
        found.append(np.median(ratios, axis=0))
        agrees[members] = False
        agrees[:, members] = False
    return np.array(found).reshape(-1, lifted.shape[1] - 1)


def _independent(lifted: Float64, count: int, seed: int) -> Float64:
    """The inputs of the components that the rows are mixtures of."""
    from sklearn.decomposition import FastICA  # noqa: PLC0415 - slow to import

    u, s, vt = np.linalg.svd(lifted, full_matrices=False)
    rank = min(count, int((s > 1e-6 * s[0]).sum()), len(lifted) - 1)
    if rank < 2:
        return np.zeros((0, lifted.shape[1] - 1))
    scores = u[:, :rank] * s[:rank]
    analysis = FastICA(rank, whiten="unit-variance", fun="cube", max_iter=500, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a search that does not converge is an attack that fails
        try:
            analysis.fit(scores)
        except (ValueError, np.linalg.LinAlgError):
            return np.zeros((0, lifted.shape[1] - 1))
    # The centred mixtures' components; the mixtures themselves have the same mixing.
    sources = analysis.mixing_.T @ vt[:rank]
    usable = sources[np.abs(sources[:, -1]) > 1e-9 * np.abs(sources).max()]
    inputs: Float64 = usable[:, :-1] / usable[:, -1:]
    return inputs


def _input_of(rows: Float64) -> Float64:
    """The x of rows that are multiples of (x, 1)."""
    ones = rows[:, -1]
    inputs: Float64 = ones @ rows[:, :-1] / max(float(ones @ ones), 1e-300)
    return inputs


def _distinct(candidates: Float64) -> Float64:
    """Without those that are all but the same as an earlier one."""
    kept: list[Float64] = []
    for one in candidates[np.isfinite(candidates).all(axis=1)]:
        size = np.linalg.norm(one)
        if all(np.linalg.norm(one - other) > 1e-3 * size for other in kept):
            kept.append(one)
    return np.array(kept).reshape(-1, candidates.shape[1])
