"""DP-FedAvg: share the whole model, which is trained only by private steps."""

from __future__ import annotations

from shared.federation.hyperparameters import PrivateModelPlan
from worker.methods.interface import PrivateTensors
from worker.methods.private_model import PrivateModelMethod, PrivateSteps
from worker.methods.whole_model.client import ModelClient


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
