"""Which clients take part in a round: seeded draws that any replica makes alike."""

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
    return sorted(_ranked(f"{seed}:{round_number}", client_names, size)[:size])


def group(seed: int, round_number: int, client_names: Iterable[str], size: int) -> list[str]:
    """One of the groups into which the clients are divided once, in order of name; each in turn.

    There are as many groups as ``size`` goes into the number of clients, so each has ``size``
    clients or more, and less than twice as many. Who is in a group with whom does not change while
    the clients are the same: sums of cohorts that are drawn anew can be solved for a client's part
    (So et al., "Securing Secure Aggregation", AAAI 2023).

    Raises:
        ValueError: fewer clients than ``size``, or an empty cohort.
    """
    ranked = _ranked(f"{seed}:group", client_names, size)
    count = len(ranked) // size
    place = round_number % count
    return sorted(ranked[place * len(ranked) // count : (place + 1) * len(ranked) // count])


def _ranked(salt: str, client_names: Iterable[str], size: int) -> list[str]:
    names = list(client_names)
    if not 1 <= size <= len(names):
        raise ValueError(f"a cohort of {size} cannot be drawn from {len(names)} clients")
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt}:{name}".encode()).digest())
