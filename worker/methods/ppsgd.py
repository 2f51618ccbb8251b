"""PPSGD (Bietti et al., ICML 2022): share a privately trained extractor, keep the head.

Each batch takes a plain step of the head, then a private step of the extractor.
"""

from __future__ import annotations

import torch

from shared.plans import PPSGDPlan, TrainingPlan
from worker.methods.base import PrivateTensors
from worker.methods.model_client import HEAD_BIAS, HEAD_WEIGHT, ModelClient
from worker.methods.model_sgd import Descent, gradients_of
from worker.methods.private_training import PrivateModelMethod, PrivateSteps
from worker.methods.sgd import SGDSettings


class PPSGD(PrivateModelMethod):
    """Head and extractor in turns, batch by batch."""

    shares_extractor = True
    shares_head = False
    _plan: PPSGDPlan

    def __init__(self, plan: TrainingPlan, device: torch.device) -> None:
        super().__init__(plan, device)
        self._plan = PPSGDPlan.model_validate(plan.hyperparameters)

    def personal_settings(self) -> SGDSettings:
        """The head's, which alone is a client's own."""
        plan = self._plan
        return SGDSettings(plan.head_learning_rate, plan.momentum, plan.weight_decay)

    def train_client(self, client: ModelClient) -> PrivateTensors:
        """See :class:`ModelMethod`."""
        steps = PrivateSteps(client, client.extractor_parameters, self._plan)
        head = {name: client.parameters[name] for name in (HEAD_WEIGHT, HEAD_BIAS)}
        descent = Descent(head, self.personal_settings())
        for batch in steps.batches():
            if batch is not None:
                leaves = {name: one.detach().requires_grad_() for name, one in head.items()}
                with client.training_mode():
                    loss = client.loss(leaves, batch)
                descent.step(gradients_of(loss, leaves))
            steps.take(batch)
        return steps.remembered()
