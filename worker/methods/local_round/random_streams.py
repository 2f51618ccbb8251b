"""A client's own random numbers: one independent stream for each purpose and round.

All that a client draws and nobody else may guess comes from here: first private tensors, batches,
Poisson samples, noise. So a stream's key has 128 bits; torch's CPU generator takes no more than 32
of a seed. Philox is a counter-based generator of good statistics, and not a certified source of
cryptographic randomness.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def client_generator(client_seed: int, purpose: str, round_number: int = 0) -> np.random.Generator:
    """A generator that depends only on these three.

    So what a client draws depends neither on who trains beside it nor on restarts.
    """
    digest = hashlib.sha256(f"{client_seed}:{purpose}:{round_number}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def drawn_normally(shape: tuple[int, ...], generator: np.random.Generator) -> torch.Tensor:
    """float32 on the CPU, each element from N(0, 1), drawn in float64."""
    return torch.from_numpy(generator.standard_normal(shape)).float()


def drawn_uniformly(
    shape: tuple[int, ...], bound: float, generator: np.random.Generator
) -> torch.Tensor:
    """A float32 tensor of ``shape`` on the CPU, each element from U(-bound, bound).

    Drawn in float64.
    """
    return torch.from_numpy(generator.uniform(-bound, bound, shape)).float()
