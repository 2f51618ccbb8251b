"""DP-FedAvg: share the whole model, which is trained by private steps alone."""

from __future__ import annotations

from shared.plans import PrivateModelPlan
from worker.methods.base import PrivateTensors
from worker.methods.model_client import ModelClient
from worker.methods.private_training import PrivateModelMethod, PrivateSteps


class DPFedAvg(PrivateModelMethod):
    """FedAvg's epochs, each example's gradient clipped and every step noised."""

    shares_extractor = True
    shares_head = True
    plan_type = PrivateModelPlan
    _plan: PrivateModelPlan

    def train_client(self, client: ModelClient) -> PrivateTensors:
        """See :class:`ModelMethod`."""
        steps = PrivateSteps(client, client.parameters, self._plan)
        for batch in steps.batches():
            steps.take(batch)
        return steps.remembered()
