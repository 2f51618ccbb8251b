"""FedPAC (Xu, Tong and Huang, ICLR 2023): align features, and combine heads of similar clients.

A client begins with its own combination of the heads that clients had after the last round, trains
the head, and then the extractor, whose features are pulled to the centroids of all clients'
classes. In the paper the coordinator computes the combinations. Here each client computes its own,
from a shared table of what clients tell (``worker.methods.collaboration.table``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import cross_entropy, mse_loss

from shared.arrays import NamedArrays
from shared.federation.hyperparameters import FedPACPlan
from shared.federation.plans import TrainingPlan
from shared.federation.sharing import CLIENTS_TABLE
from shared.rest.declines import DeclineKind
from worker.data.client_data import Batch
from worker.methods.collaboration.combination import combination_weights
from worker.methods.collaboration.statistics import ClassStatistics, class_statistics
from worker.methods.collaboration.table import RowLayout
from worker.methods.interface import (
    DEFAULT_RESOURCES,
    Participant,
    PrivateTensors,
    SiteResources,
)
from worker.methods.local_round.base_method import CannotTrain, raising_stop
from worker.methods.local_round.sgd import SGDSettings, head_settings_of, settings_of
from worker.methods.whole_model.client import ModelClient
from worker.methods.whole_model.method import ModelMethod, Tensors
from worker.methods.whole_model.sgd import train_head_first, train_parameters
from worker.models.layout import TrainableTensor

_PLACE = "table.place"


class FedPAC(ModelMethod):
    """The head, then the extractor under a fixed head, with features near their class's centroid.

    Shared beside the extractor: ``clients.table`` (max_clients, values of a row). Private beside
    head and buffers: ``table.place``, int64, where the client's last row was written; -1 while
    its head is used as it is, before its first round and after personalising.

    Metric beside the common ones: ``train_loss`` of the extractor's last epoch, the alignment
    included.
    """

    shares_extractor = True
    shares_head = False
    plan_type = FedPACPlan
    _plan: FedPACPlan

    def __init__(
        self, plan: TrainingPlan, device: torch.device, resources: SiteResources = DEFAULT_RESOURCES
    ) -> None:
        """See :class:`ModelMethod`."""
        super().__init__(plan, device, resources)
        (width,) = {one.shape[1] for one in self._own if one.name == "head.weight"}
        self._layout = RowLayout(plan.num_classes, width)
        shape = (self._plan.max_clients, self._layout.size)
        self._shared.append(TrainableTensor(CLIENTS_TABLE, shape, 0.0, 0.0))

    def personal_settings(self) -> SGDSettings:
        """The head's; only the head is a client's own."""
        return head_settings_of(self._plan)

    def initial_extra(self) -> PrivateTensors:
        """See :class:`ModelMethod`."""
        return {_PLACE: torch.tensor(-1)}

    def model_in_use(self, client: ModelClient, shared: Tensors) -> Tensors:
        """The extractor with the combined head, or with the client's own; see the class."""
        model = self.model_of(client.private, shared)
        if client.private[_PLACE] < 0:
            return model
        return model | self._combined_head(client, shared[CLIENTS_TABLE])

    def train_client(self, client: ModelClient) -> PrivateTensors:
        """See :class:`ModelMethod`. What is left of the table is the client's own row."""
        place, table = self._place_of(client), client.parameters[CLIENTS_TABLE]
        given = self._statistics(client)
        client.parameters |= self._combined_head(client, table, given)
        train_head_first(
            client,
            epochs=self._plan.head_epochs,
            settings=head_settings_of(self._plan),
            batch_size=self._plan.batch_size,
        )
        self._train_extractor(client, *self._layout.centroids(table))
        head = client.head.tensors
        row = self._layout.write(
            given, self._statistics(client), head["head.weight"], head["head.bias"]
        )
        own = torch.zeros_like(table)
        own[place] = row.to(own)
        client.parameters[CLIENTS_TABLE] = own
        return {_PLACE: torch.tensor(place)}

    def personalize(
        self,
        participant: Participant,
        weights: NamedArrays,
        epochs: int,
        should_stop: Callable[[], bool],
    ) -> PrivateTensors:
        """The combined head after ``epochs`` on fixed features, and buffers; ``weights`` stay."""
        self.check(participant)
        shared = self.read(weights)
        client = self._client(participant, shared, 0, raising_stop(should_stop))
        head = self._combined_head(client, shared[CLIENTS_TABLE])
        private = participant.private | {name: one.cpu() for name, one in head.items()}
        private = super().personalize(
            replace(participant, private=private), weights, epochs, should_stop
        )
        return private | self.initial_extra()

    def _place_of(self, client: ModelClient) -> int:
        if client.number is None:
            raise CannotTrain(
                "the coordinator gives clients no number, by which fedpac knows their places: it "
                "is of a version that is too old"
            )
        if client.number >= self._plan.max_clients:
            raise CannotTrain(
                f"it is client number {client.number} of the federation, counted from 0, and "
                f"max_clients is {self._plan.max_clients}: it takes a new federation with "
                f"max_clients of {client.number + 1} or more",
                DeclineKind.NO_PLACE,
            )
        return client.number

    def _statistics(self, client: ModelClient) -> ClassStatistics:
        """Of the present extractor's features of the training examples, never augmented."""
        with torch.no_grad():
            features = (
                (client.features(client.parameters, inputs), labels)
                for inputs, labels in client.training_examples()
            )
            return class_statistics(features, self._num_classes)

    def _combined_head(
        self, client: ModelClient, table: torch.Tensor, given: ClassStatistics | None = None
    ) -> Tensors:
        """The heads of the last round, combined for the client; its own where there were none.

        A client that took part is judged by what it told then, which the others told under the
        same extractor. Another is judged by its statistics now, ``given`` if they are known, and
        its own head is one more that is combined if it has been trained.
        """
        rows, own = self._layout.rows(table), dict(client.head.tensors)
        if not rows.places:
            return own
        place = int(client.private[_PLACE])
        variances, means, heads = rows.variances, rows.means, rows.heads
        if place in rows.places:
            target = means[rows.places.index(place)]
        else:
            given = given or self._statistics(client)
            target = given.means.reshape(-1).numpy()
            if place >= 0:
                variances = np.append(variances, given.variance)
                means = np.vstack([means, target])
                heads = {
                    name: np.concatenate([one, own[name].detach().cpu().double().numpy()[None]])
                    for name, one in heads.items()
                }
        weights = combination_weights(variances, target - means)
        if weights is None:
            return own
        return {
            name: torch.from_numpy(np.tensordot(weights, one, axes=1)).to(own[name])
            for name, one in heads.items()
        }

    def _train_extractor(
        self, client: ModelClient, centroids: torch.Tensor, is_known: torch.Tensor
    ) -> None:
        """Epochs of SGD on cross-entropy plus λ times the mean squared distance to the centroids.

        An example of a class without a centroid has the distance 0.
        """
        plan, head = self._plan, client.head
        centroids, is_known = centroids.to(head.tensors["head.weight"]), is_known.to(self._device)

        def loss_of(parameters: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
            inputs, labels = batch
            features = client.features(parameters, inputs)
            aims = torch.where(is_known[labels, None], centroids[labels], features.detach())
            return cross_entropy(head.logits(features), labels) + plan.alignment * mse_loss(
                features, aims
            )

        client.metrics["train_loss"] = train_parameters(
            client,
            client.extractor_parameters,
            settings_of(plan),
            epochs=plan.epochs,
            batch_size=plan.batch_size,
            loss_of=loss_of,
        )
