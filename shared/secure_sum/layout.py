"""What is added in a round: every shared tensor's values, and a few counts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.federation.protection_plan import LARGEST_COHORT
from shared.federation.specification import FederationSpecification
from shared.secure_sum.fixed_point import FixedPoint, pack, packed_bytes, unpack
from shared.secure_sum.masks import RingVector
from shared.secure_sum.noise import SumNoise

Arrays = Mapping[str, npt.NDArray[np.generic]]

COUNTS, VALUES = "counts", "values"
"""The masked update's tensors, both U8: little-endian numbers of 8 bytes, and packed values."""
METRICS: Mapping[str, tuple[str, ...]] = {
    "train": ("accuracy_before", "accuracy_after", "loss_before", "loss_after"),
    "evaluate": ("accuracy", "loss"),
}
"""Summed over the cohort, by kind of round; each is a number of reporters and a sum."""
METRIC_UNIT = 2.0**-24
LARGEST_METRIC = 2.0**20
_BEFORE_METRICS = 2


@dataclass(frozen=True)
class SumLayout:
    """The size of a round's vector, and how a sum is read.

    Attributes:
        kind: ``train`` or ``evaluate``.
        num_values: of all shared tensors; 0 in an evaluation.
        fixed_point: how they are written.
        noise: of the values; None where there is none.
    """

    kind: str
    num_values: int
    fixed_point: FixedPoint
    noise: SumNoise | None = None

    @classmethod
    def of(
        cls,
        specification: FederationSpecification,
        kind: str,
        cohort_size: int,
        round_number: int,
    ) -> SumLayout:
        """The layout of a protected federation's round of a kind.

        Raises:
            ValueError: the federation is not protected, or so many clients do not fit.
        """
        plan, privacy = specification.protection, specification.training.privacy
        if plan is None:
            raise ValueError(f"federation {specification.name} has no protection")
        if kind != "train":
            return cls(kind, 0, FixedPoint.for_clients(plan.bits, plan.bound, cohort_size))
        num_values = specification.parameters.num_elements
        if privacy is None:
            fixed_point = FixedPoint.for_clients(plan.bits, plan.bound, cohort_size)
            return cls(kind, num_values, fixed_point)
        policy = specification.round_policy
        noise = SumNoise(
            multiplier=privacy.noise_multiplier,
            sensitivity=privacy.sensitivity(policy.max_examples_weight or 1, round_number),
            enough_of=privacy.noise_share(cohort_size, policy.minimum_updates),
            num_values=num_values,
        )
        fixed_point = noise.fixed_point(plan.bits, plan.bound, cohort_size)
        return cls(kind, num_values, fixed_point, noise)

    @property
    def num_counts(self) -> int:
        """Examples, values that were cut, and two for each metric."""
        return _BEFORE_METRICS + 2 * len(METRICS[self.kind])

    @property
    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of the file's tensors, by name."""
        num_bytes = packed_bytes(self.num_values, self.fixed_point.bits)
        return {COUNTS: ("U8", (8 * self.num_counts,)), VALUES: ("U8", (num_bytes,))}

    def zeros(self) -> RingVector:
        """The sum of nothing."""
        return RingVector.zeros(self.num_counts, self.num_values, self.fixed_point.bits)

    def counts_of(
        self, num_examples: int, num_cut: int, metrics: Mapping[str, float]
    ) -> npt.NDArray[np.uint64]:
        """One client's counts; a metric that it does not report counts nothing."""
        counts = [num_examples, num_cut]
        for name in METRICS[self.kind]:
            value = metrics.get(name)
            reported = value is not None and np.isfinite(value)
            bounded = min(max(value or 0.0, 0.0), LARGEST_METRIC) if reported else 0.0
            counts += [int(reported), round(bounded / METRIC_UNIT)]
        return np.array(counts, np.uint64)

    def read_counts(self, counts: npt.NDArray[np.uint64]) -> tuple[int, int, dict[str, float]]:
        """Examples, cut values and the mean of each metric that somebody reported, of a sum."""
        num_examples, num_cut, *rest = (int(count) for count in counts)
        metrics = {
            name: total * METRIC_UNIT / reporters
            for name, reporters, total in zip(
                METRICS[self.kind], rest[::2], rest[1::2], strict=True
            )
            if reporters
        }
        return num_examples, num_cut, metrics

    def to_wire(self, vector: RingVector) -> dict[str, npt.NDArray[np.uint8]]:
        """The file's tensors."""
        return {
            COUNTS: np.frombuffer(vector.counts.astype("<u8").tobytes(), np.uint8),
            VALUES: pack(vector.values, vector.bits),
        }

    def from_wire(self, wire: Arrays) -> RingVector:
        """The vector of the file's tensors.

        Raises:
            ValueError: they are of another size.
        """
        bits = self.fixed_point.bits
        values = unpack(np.asarray(wire[VALUES], np.uint8), self.num_values, bits)
        counts = np.frombuffer(np.asarray(wire[COUNTS], np.uint8).tobytes(), "<u8")
        if len(counts) != self.num_counts:
            raise ValueError(f"there are {len(counts)} counts, not {self.num_counts}")
        return RingVector(counts.astype(np.uint64), values, bits)


def check_sum_fits(specification: FederationSpecification) -> None:
    """Raises ValueError unless each round's sum, and its noise, fit into the ring of a protection.

    Without a protection there is nothing to fit.
    """
    if specification.protection is None:
        return
    smallest = specification.round_policy.cohort_size or LARGEST_COHORT
    # A group has fewer clients than two.
    largest = min(2 * smallest - 1, LARGEST_COHORT)
    last = specification.training.planned_rounds or specification.round_policy.rounds
    for number in (1, last):  # noise is largest in the first, finest in the last
        for size in (smallest, largest):
            SumLayout.of(specification, "train", size, number)
