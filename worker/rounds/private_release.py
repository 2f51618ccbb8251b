"""What leaves a client of a federation with differential privacy: a bounded change with noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shared.arrays import Array, NamedArrays
from shared.federation.privacy_plan import PrivacyPlan
from shared.federation.specification import FederationSpecification
from shared.rest.declines import DeclineKind
from shared.secure_sum.fixed_point import Ring32
from shared.secure_sum.layout import METRICS, SumLayout
from shared.tensors.low_rank import FactoredDelta, Float64
from worker.methods.interface import TrainingFailedError, TrainingResult
from worker.noise import noise_key, rounded_normal, with_noise
from worker.rounds.flat_changes import clipped, flat_change, split
from worker.rounds.held_task import HeldTask

_ROUNDING = 1e-6
"""Of a sensitivity, relative."""


ALONE = "alone"
"""The occasion of an update that is not summed."""


class PrivateRelease:
    """Adds the noise of a federation's plan. PROTOCOL.md, "Differential privacy", is normative."""

    def __init__(self, specification: FederationSpecification, privacy: PrivacyPlan) -> None:
        self._parameters, self._policy = specification.parameters, specification.round_policy
        self._privacy = privacy

    def alone(
        self, key: bytes, result: TrainingResult, weights: NamedArrays
    ) -> dict[str, Array | FactoredDelta]:
        """The change that the coordinator may see by itself, by name, with all its noise.

        ``key`` is of the noise: :func:`release_key` of ``ALONE``.

        Raises:
            TrainingFailedError: nothing bounds what one example changes.
        """
        change, sensitivity = self._bounded(result, weights, weight=1.0)
        noisy = with_noise(change, self._privacy.noise_multiplier, sensitivity, key)
        return dict(split(noisy, self._parameters))

    def said_examples(self, result: TrainingResult) -> int:
        """The examples that an update says by itself.

        A client's number of them is a secret where the client itself is what is hidden.
        """
        return 1 if self._privacy.unit == "client" else result.num_examples

    def part_of_sum(
        self,
        key: bytes,
        layout: SumLayout,
        result: TrainingResult,
        weights: NamedArrays,
    ) -> tuple[int, Ring32]:
        """The examples that are said, and the values (m,) with this client's share of the noise.

        Args:
            key: of the noise: :func:`release_key` of what tells the sum's members from every
                other cohort.
            layout: of the sum.
            result: of the round.
            weights: those before it.

        Raises:
            TrainingFailedError: one example changes more than the plan's noise is made for.
            ValueError: the layout has no noise.
        """
        if layout.noise is None:
            raise ValueError("the layout of a sum with differential privacy has noise")
        cap = self._policy.max_examples_weight or 1
        num_examples = cap if self._privacy.unit == "client" else min(result.num_examples, cap)
        change, sensitivity = self._bounded(result, weights, num_examples / cap)
        if sensitivity > layout.noise.sensitivity * (1 + _ROUNDING):
            raise TrainingFailedError(
                {
                    result.participant: f"one example changes {sensitivity:.3g} of the sum, and "
                    f"the noise is made for {layout.noise.sensitivity:.3g}"
                },
                DeclineKind.PRIVACY,
            )
        deviation = layout.noise.deviation(layout.fixed_point)
        noise = rounded_normal(key, deviation, len(change))
        return num_examples, layout.fixed_point.encode_with_noise(change, noise)

    def metrics(self, round_number: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """What is said of a round: accuracies, losses, and ``epsilon_spent`` so far at most."""
        shown = {name: metrics[name] for name in METRICS["train"] if name in metrics}
        return shown | {"epsilon_spent": self._privacy.epsilon_after(round_number)}

    def _bounded(
        self, result: TrainingResult, weights: NamedArrays, weight: float
    ) -> tuple[Float64, float]:
        """The weighted change (m,), and what one unit of privacy can change in it."""
        change = weight * flat_change(result, weights, self._parameters)
        if not np.isfinite(change).all():
            raise TrainingFailedError(
                {result.participant: "its change is not finite"}, DeclineKind.DIVERGENCE
            )
        if self._privacy.unit == "client":
            return clipped(change, self._privacy.clip_norm), self._privacy.clip_norm
        if result.sensitivity is None:
            raise TrainingFailedError(
                {result.participant: "its method does not bound what one example changes"},
                DeclineKind.PRIVACY,
            )
        return change, weight * result.sensitivity


def release_key(one: HeldTask, occasion: str) -> bytes:
    """The key of a client's noise in a round; ``occasion`` is ``ALONE``, or the sum's cohort."""
    state, task = one.client.state, one.task
    who = (state.federation, state.specification_digest, one.client.name)
    return noise_key(state.seed, *who, str(task.round_number), task.base_digest, occasion)
