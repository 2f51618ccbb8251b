"""PPSGD (Bietti et al., ICML 2022): share a privately trained extractor, keep the head.

Each batch takes a plain step of the head, then a private step of the extractor.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from shared.federation.hyperparameters import PPSGDPlan
from worker.methods.interface import PrivateTensors
from worker.methods.local_round.head import Head
from worker.methods.local_round.sgd import Descent, gradients_of, head_settings_of
from worker.methods.private_model import PrivateExtractorMethod, PrivateSteps
from worker.methods.whole_model.client import ModelClient


class PPSGD(PrivateExtractorMethod):
    """Head and extractor in turns, batch by batch."""

    shares_extractor = True
    shares_head = False
    plan_type = PPSGDPlan
    _plan: PPSGDPlan

    def train_client(self, client: ModelClient) -> PrivateTensors:
        """See :class:`ModelMethod`."""
        steps = PrivateSteps(client, client.extractor_parameters, self._plan)
        head = dict(client.head.tensors)
        descent = Descent(head, head_settings_of(self._plan))

        def train_head(features: torch.Tensor, labels: torch.Tensor) -> None:
            leaves = {name: one.detach().requires_grad_() for name, one in head.items()}
            loss = cross_entropy(Head(leaves).logits(features), labels)
            descent.step(gradients_of(loss, leaves))

        for batch in steps.batches():
            steps.take(batch, train_head)
        return steps.remembered()
