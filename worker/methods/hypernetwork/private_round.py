"""A client's round with differential privacy: one private step, and a fit of all that stays here.

The fit is of the embedding and the head to the round's weights. It needs no noise: nothing of it is
in what is sent (:mod:`worker.methods.hypernetwork.private_step`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import structlog
import torch

from shared.federation.hyperparameters import HyperFLPlan
from shared.federation.plans import TrainingPlan
from shared.federation.sharing import OUTPUT_BIAS
from worker.errors import ModelError
from worker.methods.hypernetwork.personalization import PrivateFit
from worker.methods.hypernetwork.private_step import PrivateStep
from worker.methods.hypernetwork.public_head import ROW_NORM_OF_PRIVATE_STEPS, public_head
from worker.methods.hypernetwork.weights import HypernetworkWeights
from worker.methods.interface import Participant, TrainingDivergedError, TrainingResult
from worker.methods.local_round.extractor import FunctionalExtractor, own_buffers
from worker.methods.privacy.clipped_gradients import check_examples_are_separate
from worker.models.layout import ParameterLayout
from worker.models.registry import FeatureExtractor

_log = structlog.get_logger()


class PrivateRound:
    """Trains one client after the other."""

    def __init__(self, step: PrivateStep, fit: PrivateFit, plan: HyperFLPlan) -> None:
        self._step, self._fit, self._plan = step, fit, plan

    def train(
        self,
        participant: Participant,
        weights: HypernetworkWeights,
        round_number: int,
        stop_if_asked: Callable[[], None],
    ) -> TrainingResult:
        """A client's result, whose change has no noise yet; ``weights`` are φ, never changed."""
        epochs, feature_scale = self._plan.epochs, self._plan.feature_scale
        client = self._fit.client(participant, round_number, epochs, stop_if_asked)
        accuracy, loss = client.evaluate(weights.generate(client.embedding, feature_scale))
        client.metrics |= {"accuracy_before": accuracy, "loss_before": loss}
        change = self._step.change(client, participant, weights, round_number)
        try:
            private = self._fit.run(client, weights, epochs)
        except TrainingDivergedError:
            # Whether something is sent must not depend on the data: it has no noise.
            _log.error("fit diverged, private tensors stay", client=client.name)
            private = participant.private
        embedding = private["embedding"].to(change.device)
        accuracy, loss = client.evaluate(weights.generate(embedding, feature_scale))
        client.metrics |= {"accuracy_after": accuracy, "loss_after": loss}
        return TrainingResult(
            participant=client.name,
            num_examples=client.num_examples,
            deltas={OUTPUT_BIAS: change.cpu().numpy()},
            private=private,
            metrics={name: one for name, one in client.metrics.items() if math.isfinite(one)},
            sensitivity=self._step.sensitivity(client.num_examples, round_number),
        )


def private_round_for(
    training: TrainingPlan,
    plan: HyperFLPlan,
    template: FeatureExtractor,
    extractor: FunctionalExtractor,
    layout: ParameterLayout,
    device: torch.device,
    fit: PrivateFit,
) -> PrivateRound | None:
    """The rounds of a federation with privacy for examples; None for any other.

    Raises:
        ModelError: the network has no gradients of single examples, buffers that training changes,
            or fewer features than classes.
    """
    if training.privacy is None or training.privacy.unit != "example":
        return None
    check_examples_are_separate(template.module)
    if changing := sorted(own_buffers(template.module)):
        raise ModelError(
            f"training changes buffer {changing[0]}, which would carry what it saw into the "
            "gradients without noise"
        )
    head = public_head(training.num_classes, template.feature_width, ROW_NORM_OF_PRIVATE_STEPS)
    head = head.to(device)
    step = PrivateStep(training.privacy, extractor, layout, head, plan.feature_scale)
    return PrivateRound(step, fit, plan)
