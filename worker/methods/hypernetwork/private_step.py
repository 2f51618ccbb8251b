"""A round's one step of b that tells little of any one example, before noise is added to it.

Its gradient is taken at the extractor of no client, θ = b + W f(0), under a head that everybody
knows. So nothing that is sent depends on a client's embedding or head, and these are trained
without noise: they never leave. Each example's gradient is clipped (Abadi et al., CCS 2016), by
norms that follow from the layers' inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import cross_entropy, linear

from shared.arrays import digest_arrays
from shared.federation.privacy_plan import PrivacyPlan
from worker.methods.hypernetwork.weights import HypernetworkWeights
from worker.methods.interface import Participant
from worker.methods.local_round.client import LocalClient
from worker.methods.local_round.extractor import FunctionalExtractor
from worker.methods.local_round.random_streams import client_generator
from worker.methods.privacy.clipped_gradients import ClippedGradients
from worker.models.layout import ParameterLayout

_ROUNDING = 1e-5
"""More than float32 is off by in an example's norm, relative: what is clipped is at most C."""


class PrivateStep:
    """What one client sends of a round with differential privacy, but for the noise."""

    def __init__(
        self,
        privacy: PrivacyPlan,
        extractor: FunctionalExtractor,
        layout: ParameterLayout,
        head: torch.Tensor,
        feature_scale: float,
    ) -> None:
        """Keep what all clients have in common.

        Args:
            privacy: the federation's.
            extractor: the network.
            layout: of θ.
            head: (classes, width) on the device, which everybody knows.
            feature_scale: factor on the hidden features.
        """
        self._privacy, self._extractor, self._layout = privacy, extractor, layout
        self._head, self._feature_scale = head, feature_scale

    def sensitivity(self, num_examples: int, number: int) -> float:
        """Largest norm of what one of a client's examples changes in :meth:`change`."""
        plan = self._privacy
        return plan.learning_rate_in(number) * plan.clip_norm / (plan.sample_rate * num_examples)

    def change(
        self,
        client: LocalClient,
        participant: Participant,
        weights: HypernetworkWeights,
        number: int,
    ) -> torch.Tensor:
        """The change of b (P,), float64: −η · Σ clipped gradients / (q · n), over a Poisson sample.

        Args:
            client: the participant on the device.
            participant: whose seed draws the sample.
            weights: φ, never changed.
            number: of the round.
        """
        plan = self._privacy
        bias = weights.output_bias
        # By the weights too: a private state that was put back to an earlier day draws other
        # samples from other weights, as the accountant takes them to be.
        base = digest_arrays({"b": bias.cpu().numpy()})
        sampling = client_generator(participant.seed, f"private sample from {base}", number)
        theta = weights.generate(bias.new_zeros(weights.trunk_weight.shape[1]), self._feature_scale)

        def logits(parameters: Mapping[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
            features = self._extractor.call(parameters, inputs, bias.dtype)
            return linear(features, self._head)

        clipped = ClippedGradients(
            logits, self._layout.split(theta), plan.clip_norm * (1 - _ROUNDING)
        )
        # float32 would round a long sum by more where one example more is in it.
        total = torch.zeros_like(bias, dtype=torch.float64)
        self._extractor.evaluation_mode()
        for inputs, labels in client.sampled_batches(plan.sample_rate, sampling):
            run = clipped.run(inputs)
            sums = run.clipped_sum(cross_entropy(run.outputs, labels, reduction="none"))
            total += torch.cat([sums[tensor.name].flatten() for tensor in self._layout.tensors])
        rate = plan.learning_rate_in(number)
        return total * (-rate / (plan.sample_rate * client.num_examples))
