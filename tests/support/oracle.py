"""What the weights must be, computed from the bodies that were sent and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import safetensors.numpy

from shared.arrays import Array, digest_arrays
from shared.federation.specification import FederationSpecification
from shared.rest.schema import RoundPhase
from tests.support.ledger import Ledger


@dataclass(frozen=True)
class SentUpdate:
    """A body that some client sent, and what is in it."""

    client: str
    num_examples: int
    deltas: dict[str, Array]


class Oracle:
    """Versions of one federation by the protocol's definition of the dense encoding."""

    def __init__(self, specification: FederationSpecification) -> None:
        self._versions: list[dict[str, Array]] = []
        self._digests: list[str] = []
        self._sent: dict[str, SentUpdate] = {}
        self._append(specification.parameters.initial_values())

    def note_sent(self, body: bytes, update: SentUpdate) -> None:
        """Remembers a body before it is sent, whatever becomes of it."""
        self._sent[f"sha256:{hashlib.sha256(body).hexdigest()}"] = update

    @property
    def newest_version(self) -> int:
        """The version that the last committed round led to."""
        return len(self._versions) - 1

    def digest(self, version: int) -> str:
        """Of a version that was committed before."""
        return self._digests[version]

    def is_version(self, version: int, content: bytes) -> bool:
        """Whether a safetensors file holds this version bit for bit."""
        arrays = safetensors.numpy.load(content)
        expected = self._versions[version]
        return arrays.keys() == expected.keys() and all(
            arrays[name].tobytes() == value.tobytes() for name, value in expected.items()
        )

    def commit(self, base_version: int, update_digests: Sequence[str]) -> None:
        """Advances by the weighted mean of the updates with these digests."""
        updates = sorted((self._sent[digest] for digest in update_digests), key=lambda u: u.client)
        assert len({update.client for update in updates}) == len(updates)
        assert base_version == self.newest_version
        total = sum(update.num_examples for update in updates)
        new = {}
        for name, base in self._versions[base_version].items():
            mean = np.zeros(base.shape)
            for update in updates:
                mean += update.num_examples * update.deltas[name].astype(np.float64)
            new[name] = (base.astype(np.float64) + mean / total).astype(np.float32)
        self._append(new)

    def _append(self, weights: dict[str, Array]) -> None:
        self._versions.append(weights)
        self._digests.append(digest_arrays(weights))


def check_versions(ledger: Ledger, oracle: Oracle) -> None:
    """Every committed round advanced the weights once, by exactly the updates recorded for it."""
    trained = [
        one for one in ledger.rounds if (one.kind, one.phase) == ("train", RoundPhase.COMMITTED)
    ]
    count = len(trained)
    assert [one.number for one in ledger.rounds] == [*range(1, len(ledger.rounds) + 1)]
    assert [one.base_version for one in trained] == [*range(count)]
    assert [one.new_version for one in trained] == [*range(1, count + 1)]
    assert [version for version, _ in ledger.versions] == [*range(count + 1)]
    assert ledger.weights_version == count
    for one in trained[oracle.newest_version :]:
        oracle.commit(one.base_version, [digest for _, digest in one.updates])
    assert [digest for _, digest in ledger.versions] == [
        oracle.digest(version) for version, _ in ledger.versions
    ]
