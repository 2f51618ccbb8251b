"""CENTAUR (Shen et al., ICML 2023): share a privately trained extractor, keep the head.

A local round is HyperFL's head step, then epochs of private steps on the extractor.
"""

from __future__ import annotations

from shared.federation.hyperparameters import CentaurPlan
from worker.methods.interface import PrivateTensors
from worker.methods.local_round.sgd import head_settings_of
from worker.methods.private_model import PrivateExtractorMethod, PrivateSteps
from worker.methods.whole_model.client import ModelClient
from worker.methods.whole_model.sgd import train_head_first


class Centaur(PrivateExtractorMethod):
    """The head on fixed features, then the extractor under a fixed head."""

    shares_extractor = True
    shares_head = False
    plan_type = CentaurPlan
    _plan: CentaurPlan

    def train_client(self, client: ModelClient) -> PrivateTensors:
        """See :class:`ModelMethod`."""
        steps = PrivateSteps(client, client.extractor_parameters, self._plan)
        train_head_first(
            client,
            epochs=self._plan.head_epochs,
            settings=head_settings_of(self._plan),
            batch_size=self._plan.batch_size,
        )
        for batch in steps.batches():
            steps.take(batch)
        return steps.remembered()
