"""A client's own random numbers: one independent stream for each purpose and round."""

from __future__ import annotations

import hashlib

import torch


def client_generator(client_seed: int, purpose: str, round_number: int = 0) -> torch.Generator:
    """A CPU generator that depends on these three alone.

    So what a client draws depends neither on who trains beside it nor on restarts.
    """
    key = hashlib.sha256(f"{client_seed}:{purpose}:{round_number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
