"""Changes of a matrix as ``scale·base + leftᵀ·right``: compression in the small Gram space.

A product of factors with ρ components is compressed without ever forming the matrix: everything
large is touched by products with ρ×ρ or c×c matrices (c columns) alone, and those are decomposed in
float64. What compression leaves out comes back as factors too, to be added to the next change
(error feedback: Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from shared.arrays import Array

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FactoredDelta:
    """A change ``scale·base + leftᵀ·right`` of a matrix ``base`` (rows, columns), all float32.

    ``left`` is (rank, rows) and ``right`` (rank, columns).
    """

    scale: float
    left: Float32
    right: Float32

    @property
    def rank(self) -> int:
        """Number of components."""
        return len(self.left)

    @classmethod
    def zero(cls, rows: int, columns: int) -> Self:
        """No change at all."""
        return cls(0.0, np.zeros((0, rows), np.float32), np.zeros((0, columns), np.float32))

    def dense(self, base: Array) -> Array:
        """The same change as one float32 matrix (rows, columns), of the shape of ``base``."""
        change: Array = self.left.T @ self.right
        change += np.float32(self.scale) * base
        return change

    def plus(self, other: FactoredDelta) -> FactoredDelta:
        """The sum of two changes of the same base, by stacking their components."""
        return FactoredDelta(
            self.scale + other.scale,
            np.concatenate([self.left, other.left]),
            np.concatenate([self.right, other.right]),
        )


@dataclass(frozen=True, eq=False)
class Components:
    """``leftᵀ·right`` with orthogonal components, largest first.

    ``right`` has orthonormal rows; row k of ``left`` has the k-th singular value as its norm.

    Attributes:
        left: (rank, rows), float32.
        right: (rank, columns), float32.
        singular_values: (rank,), float64, descending.
    """

    left: Float32
    right: Float32
    singular_values: Float64

    def split(self, rank: int) -> tuple[Components, Components]:
        """The first ``rank`` components, and the others."""
        return (
            Components(self.left[:rank], self.right[:rank], self.singular_values[:rank]),
            Components(self.left[rank:], self.right[rank:], self.singular_values[rank:]),
        )

    def as_delta(self) -> FactoredDelta:
        """The change that these components are."""
        return FactoredDelta(0.0, self.left, self.right)


def rank_for(singular_values: Float64, tolerance: float, max_rank: int) -> int:
    """The smallest rank whose relative Frobenius error is at most ``tolerance``, capped.

    ``singular_values`` (rank,) are float64, in descending order.
    """
    energy = singular_values**2
    total = energy.sum()
    if total == 0.0:
        return 0
    left_out = total - np.cumsum(energy)
    enough = np.flatnonzero(left_out <= tolerance**2 * total)
    needed = int(enough[0]) + 1 if len(enough) else len(energy)
    return min(needed, max_rank)


def decompose(left: Float32, right: Float32) -> Components:
    """Singular value decomposition of ``leftᵀ·right`` from Gram matrices.

    Args:
        left: (ρ, rows), float32.
        right: (ρ, columns), float32; columns is the small side.

    Components whose singular value is under 1e-7 of the largest are dropped: float32 factors do
    not carry them.
    """
    # With right = U·diag(s)·Qᵀ, the product is (leftᵀ·U·diag(s))·Qᵀ, and the Gram matrix of
    # its first factor, at most c×c, is decomposed once more.
    u, s, qt = np.linalg.svd(right.astype(np.float64), full_matrices=False)
    mixing = u * s
    gram = mixing.T @ _gram(left) @ mixing
    eigenvalues, vectors = np.linalg.eigh(gram)
    order = np.argsort(eigenvalues)[::-1]
    singular_values = np.sqrt(np.maximum(eigenvalues[order], 0.0))
    kept = order[singular_values > 1e-7 * singular_values[0]] if len(order) else order
    basis = vectors[:, kept]
    new_left = (mixing @ basis).T.astype(np.float32) @ left
    new_right = (basis.T @ qt).astype(np.float32)
    return Components(new_left, new_right, singular_values[: len(kept)])


def _gram(left: Float32) -> Float64:
    """``left·leftᵀ`` with float64 sums, over blocks of columns so that no float64 copy is made."""
    total = np.zeros((len(left), len(left)))
    for start in range(0, left.shape[1], _GRAM_BLOCK):
        block = left[:, start : start + _GRAM_BLOCK].astype(np.float64)
        total += block @ block.T
    return total


_GRAM_BLOCK = 16_384
