"""Weights that have each neuron of a linear layer fire for one image, by a coordinator that lies.

Boenisch et al., "When the Curious Abandon Honesty: Federated Learning Is Not Private", EuroS&P 2023
("trap weights"); Fowl et al., "Robbing the Fed", ICLR 2022, have the same of neurons that share a
classifier, which is private here. A row w of the layer is drawn, and its bias is such that w x + c
is positive for one image of all that are summed. What the row then adds up to is δ (x, 1) of that
image, whoever has it, and what leaks of the others: the ratio of weight and bias is x. It needs no
single update, so a secure sum is no help. Where the tail of w x begins is learned from public
images.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from worker.attacks.network import Network, Tensors

Float64 = npt.NDArray[np.float64]
_TAIL = 0.1
"""Share of public images from whose excesses the tail is learned."""
_SMALLEST = 1e-3
"""Of a row's bias, relative to the largest: rows below had no image."""


def with_traps(
    network: Network,
    parameters: Mapping[str, torch.Tensor],
    public: torch.Tensor,
    num_examples: int,
    seed: int = 0,
) -> Tensors:
    """The extractor's parameters, with a linear layer each of whose neurons is for one image.

    Args:
        network: of the clients.
        parameters: of the extractor, as they would be.
        public: normalised images (n, C, H, W) that are like the clients'.
        num_examples: in the sum, of all clients.
        seed: of the rows.

    Raises:
        ValueError: the network has no linear layer.
    """
    with torch.no_grad():
        inputs = network.linear_inputs(parameters, public).double().numpy()
    lifted = network.linear_gradient(parameters)
    weight, bias = lifted[:, :-1], lifted[:, -1]
    usual = float((inputs @ weight.T + bias).std(axis=0).mean())
    centre = inputs.mean(axis=0)
    rows = np.random.default_rng(seed).standard_normal(weight.shape)
    # As large as the layer's own outputs: training must not end for it.
    rows *= usual / (((inputs - centre) @ rows.T).std(axis=0)[:, None] + 1e-12)
    reached = (inputs - centre) @ rows.T
    thresholds = _reached_by_one_of(num_examples, reached)
    prefix = f"{network.linear}." if network.linear else ""
    return dict(parameters) | {
        f"{prefix}weight": torch.from_numpy(rows).float(),
        f"{prefix}bias": torch.from_numpy(-thresholds - rows @ centre).float(),
    }


def sprung_inputs(lifted: Float64) -> Float64:
    """Candidates (k, inputs) for the layer's inputs: of each row, weight by bias.

    Args:
        lifted: the gradients of weight and bias (outputs, inputs + 1), times any number.
    """
    size = np.abs(lifted[:, -1])
    if not np.isfinite(lifted).all() or not size.any():
        return np.zeros((0, lifted.shape[1] - 1))
    rows = lifted[size > _SMALLEST * size.max()]
    inputs: Float64 = rows[:, :-1] / rows[:, -1:]
    return inputs


def _reached_by_one_of(count: int, values: Float64) -> Float64:
    """What one of ``count`` exceeds, for each column of ``values`` (n, k): (k,).

    Beyond the largest tenth by an exponential tail of the same mean excess.
    """
    if count * _TAIL <= 1:
        return np.quantile(values, 1 - 1 / max(count, 2), axis=0)
    start = np.quantile(values, 1 - _TAIL, axis=0)
    above = values > start
    excess = (np.where(above, values - start, 0).sum(axis=0)) / np.maximum(above.sum(axis=0), 1)
    thresholds: Float64 = start + excess * np.log(_TAIL * count)
    return thresholds
