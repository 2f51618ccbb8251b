"""FedAvg (McMahan et al., AISTATS 2017): share the whole model; only buffers are private."""

from __future__ import annotations

from worker.methods.base import PrivateTensors
from worker.methods.model_client import ModelClient
from worker.methods.model_method import ModelMethod
from worker.methods.model_sgd import train_model


class FedAvg(ModelMethod):
    """Epochs of SGD on the whole model, from the shared one."""

    shares_extractor = True
    shares_head = True

    def train_client(self, client: ModelClient) -> PrivateTensors:
        """See :class:`ModelMethod`."""
        train_model(client, self._plan)
        return {}
