"""Which versions' bytes a coordinator keeps. Pure: what to remove, given what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StoredVersion:
    """The bytes of one version's weights, or of the delta that leads to it."""

    version: int
    blob_id: int
    size_bytes: int


def surplus_weights(
    kept: Sequence[StoredVersion], newest: int, keep_last: int, keep_every: int
) -> list[StoredVersion]:
    """The versions that are neither among the last ``keep_last`` nor a multiple of ``keep_every``.

    ``keep_every`` 0 keeps no multiples. Version 0 is a multiple of none: whoever needs it builds
    it from the seed. The newest is never among them.
    """
    return [
        stored
        for stored in kept
        if stored.version <= newest - max(keep_last, 1)
        and not (keep_every and stored.version and stored.version % keep_every == 0)
    ]


def surplus_deltas(
    kept: Sequence[StoredVersion], newest: int, keep_last: int, whole_bytes: int
) -> list[StoredVersion]:
    """The deltas before the last ``keep_last`` that no chain to the newest version needs.

    A chain is sent only if it is complete and less than the ``whole_bytes`` of the newest weights,
    so the deltas before the point where it is not never lead there again.
    """
    by_version = {stored.version: stored for stored in kept}
    chain_bytes, version = 0, newest
    while version in by_version and chain_bytes + by_version[version].size_bytes < whole_bytes:
        chain_bytes += by_version[version].size_bytes
        version -= 1
    unneeded = min(version, newest - max(keep_last, 1))
    return [stored for stored in kept if stored.version <= unneeded]
