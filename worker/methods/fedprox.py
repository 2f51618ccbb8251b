"""FedProx (Li et al., MLSys 2020): FedAvg whose local round is pulled back to where it began."""

from __future__ import annotations

from shared.federation.hyperparameters import FedProxPlan
from worker.methods.fedavg import FedAvg
from worker.methods.interface import PrivateTensors
from worker.methods.whole_model.client import ModelClient
from worker.methods.whole_model.sgd import Pull, train_model


class FedProx(FedAvg):
    """Epochs of SGD on the loss plus μ/2·‖w − w_t‖², from the shared w_t."""

    plan_type = FedProxPlan
    _plan: FedProxPlan

    def train_client(self, client: ModelClient) -> PrivateTensors:
        """See :class:`worker.methods.whole_model.method.ModelMethod`."""
        before = {name: tensor.clone() for name, tensor in client.parameters.items()}
        train_model(client, self._plan, Pull(before, self._plan.proximal_weight))
        return {}
