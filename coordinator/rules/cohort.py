"""Which clients take part in a round: a seeded sample that any replica draws alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def sample(seed: int, round_number: int, client_names: Iterable[str], size: int) -> list[str]:
    """``size`` of ``client_names`` without replacement, in order of name.

    Each client's rank is the SHA-256 of seed, round and name, which is uniform over the clients and
    independent between rounds, and does not depend on the order in which they are given.

    Raises:
        ValueError: fewer clients than ``size``, or an empty cohort.
    """
    names = list(client_names)
    if not 1 <= size <= len(names):
        raise ValueError(f"a cohort of {size} cannot be drawn from {len(names)} clients")

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:{round_number}:{name}".encode()).digest()

    return sorted(sorted(names, key=rank)[:size])
