"""DP-FedAvg: share the whole model, which is trained by private steps alone."""

from __future__ import annotations

import torch

from shared.plans import PrivateModelPlan, TrainingPlan
from worker.methods.base import DEFAULT_RESOURCES, PrivateTensors, SiteResources
from worker.methods.model_client import ModelClient
from worker.methods.private_training import PrivateModelMethod, PrivateSteps


class DPFedAvg(PrivateModelMethod):
    """FedAvg's epochs, each example's gradient clipped and every step noised."""

    shares_extractor = True
    shares_head = True
    _plan: PrivateModelPlan

    def __init__(
        self, plan: TrainingPlan, device: torch.device, resources: SiteResources = DEFAULT_RESOURCES
    ) -> None:
        super().__init__(plan, device, resources)
        self._plan = PrivateModelPlan.model_validate(plan.hyperparameters)

    def train_client(self, client: ModelClient) -> PrivateTensors:
        """See :class:`ModelMethod`."""
        steps = PrivateSteps(client, client.parameters, self._plan)
        for batch in steps.batches():
            steps.take(batch)
        return steps.remembered()
