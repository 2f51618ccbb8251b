"""FedAvg (McMahan et al., AISTATS 2017), and its local round without sharing."""

from __future__ import annotations

from worker.methods.interface import PrivateTensors
from worker.methods.whole_model.client import ModelClient
from worker.methods.whole_model.method import ModelMethod
from worker.methods.whole_model.sgd import train_model


class FedAvg(ModelMethod):
    """Epochs of SGD on the whole model, from the shared one; only buffers are private."""

    shares_extractor = True
    shares_head = True

    def train_client(self, client: ModelClient) -> PrivateTensors:
        """See :class:`ModelMethod`."""
        train_model(client, self._plan)
        return {}


class Local(FedAvg):
    """FedAvg's local round on a model that is the client's own from start to end."""

    shares_extractor = False
    shares_head = False
