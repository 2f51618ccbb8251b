"""CENTAUR (Shen et al., ICML 2023): share a privately trained extractor, keep the head.

A local round is HyperFL's head step, then epochs of private steps on the extractor.
"""

from __future__ import annotations

import torch

from shared.federation.hyperparameters import CentaurPlan
from worker.data.client_data import Batch
from worker.methods.interface import PrivateTensors
from worker.methods.local_round.head import train_head
from worker.methods.local_round.sgd import head_settings_of
from worker.methods.private_model import PrivateExtractorMethod, PrivateSteps
from worker.methods.whole_model.client import ModelClient


class Centaur(PrivateExtractorMethod):
    """The head on fixed features, then the extractor under a fixed head."""

    shares_extractor = True
    shares_head = False
    plan_type = CentaurPlan
    _plan: CentaurPlan

    def train_client(self, client: ModelClient) -> PrivateTensors:
        """See :class:`ModelMethod`."""
        steps = PrivateSteps(client, client.extractor_parameters, self._plan)
        if self._plan.head_epochs:
            self._train_head(client)
        for batch in steps.batches():
            steps.take(batch)
        return steps.remembered()

    def _train_head(self, client: ModelClient) -> None:
        plan = self._plan
        batches: list[Batch] = []
        with torch.no_grad():
            for images, labels in client.shuffled_batches(plan.batch_size):
                with client.training_mode():
                    batches.append((client.features(client.parameters, images), labels))
        head = train_head(
            client.head,
            batches,
            epochs=plan.head_epochs,
            settings=head_settings_of(self._plan),
            generator=client.order,
        )
        client.parameters |= head.tensors
