"""Ditto (Li et al., ICML 2021): a shared model as in FedAvg, and beside it a model of one's own.

The own model v is trained on the client's loss plus λ/2·‖v − w_t‖². It is what the client uses, and
nothing of it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from shared.arrays import NamedArrays
from shared.federation.hyperparameters import DittoPlan
from worker.methods.fedavg import FedAvg
from worker.methods.interface import Participant, PrivateTensors, TrainingDivergedError
from worker.methods.local_round.base_method import raising_stop
from worker.methods.local_round.sgd import settings_of
from worker.methods.whole_model.client import ModelClient
from worker.methods.whole_model.method import Tensors
from worker.methods.whole_model.sgd import Pull, train_parameters

_PREFIX = "personal."
_IS_BEGUN = "personal.is_begun"


class Ditto(FedAvg):
    """FedAvg's local round of the shared model, then epochs of the client's own.

    Private tensors beside the buffers, which are the own model's: ``personal.<name>`` for each
    shared tensor, and ``personal.is_begun``, uint8: 0 until the own model begins as a copy of the
    shared one, in the client's first round.
    """

    plan_type = DittoPlan
    fine_tunes_shared = False
    _plan: DittoPlan

    def initial_extra(self) -> PrivateTensors:
        """See :class:`worker.methods.whole_model.method.ModelMethod`."""
        own = {_PREFIX + one.name: torch.zeros(one.shape) for one in self._shared}
        return own | {_IS_BEGUN: torch.zeros((), dtype=torch.uint8)}

    def model_of(self, private: Mapping[str, torch.Tensor], shared: Tensors) -> Tensors:
        """The own model, once it has begun; see :class:`ModelMethod`."""
        if not private[_IS_BEGUN]:
            return dict(shared)
        return {name: private[_PREFIX + name].to(one.device) for name, one in shared.items()}

    def train_client(self, client: ModelClient) -> PrivateTensors:
        """See :class:`ModelMethod`. The buffers that stay are those of the own model's epochs."""
        before = {name: tensor.clone() for name, tensor in client.parameters.items()}
        buffers = client.copy_buffers()
        super().train_client(client)
        client.restore_buffers(buffers)
        return self._train_own(client, before, self._plan.personal_epochs)

    def personalize(
        self,
        participant: Participant,
        weights: NamedArrays,
        epochs: int,
        should_stop: Callable[[], bool],
    ) -> PrivateTensors:
        """The own model after more epochs beside finished weights."""
        self.check(participant)
        shared = self.read(weights)
        client = self._client(participant, shared, 0, raising_stop(should_stop))
        own = self._train_own(client, shared, epochs)
        private = {name: tensor.to("cpu", copy=True) for name, tensor in client.buffers.items()}
        private |= own
        if not all(bool(tensor.isfinite().all()) for tensor in private.values()):
            raise TrainingDivergedError([client.name])
        return private

    def _train_own(self, client: ModelClient, shared: Tensors, epochs: int) -> PrivateTensors:
        own = {name: one.clone() for name, one in self.model_of(client.private, shared).items()}
        train_parameters(
            client,
            own,
            settings_of(self._plan),
            epochs=epochs,
            batch_size=self._plan.batch_size,
            pull=Pull(shared, self._plan.proximal_weight),
        )
        trained = {_PREFIX + name: tensor.cpu() for name, tensor in own.items()}
        return trained | {_IS_BEGUN: torch.ones((), dtype=torch.uint8)}
