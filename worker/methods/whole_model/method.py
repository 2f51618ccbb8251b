"""What methods have in common that train an extractor and a head as they are.

Such a method is a class with a plan: which of the two parts it shares, and how one client trains.
What it does not share is the client's own. Buffers (running statistics of normalisation layers)
are always private: they describe a client's data, are no gradient that could be clipped, and
clients with their own do better on unlike data (Li et al., "FedBN", ICLR 2021).

A client that personalises the finished model trains what is its own. Where nothing is, it
fine-tunes all that is shared, and keeps the change from these very tensors as private tensors; with
others it does not count, and its next round of the federation forgets it.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn

from shared.arrays import NamedArrays
from shared.federation.hyperparameters import ModelPlan
from shared.federation.initialisation import RowRange, TensorSpecification
from shared.federation.plans import TrainingPlan
from shared.federation.specification import ParameterSpecification
from worker.errors import ModelError
from worker.methods.interface import (
    DEFAULT_RESOURCES,
    Participant,
    PersonalModel,
    PrivateTensors,
    SiteResources,
    TrainingDivergedError,
    TrainingResult,
)
from worker.methods.local_round.base_method import (
    BaseMethod,
    CannotTrain,
    NothingToSend,
    raising_stop,
)
from worker.methods.local_round.client import BUFFER_PREFIX, HEAD_PREFIX
from worker.methods.local_round.extractor import FunctionalExtractor, own_buffers
from worker.methods.local_round.head import head_module, head_tensors
from worker.methods.local_round.random_streams import client_generator, drawn_uniformly
from worker.methods.local_round.sgd import SGDSettings, settings_of
from worker.methods.whole_model.client import EXTRACTOR_PREFIX, ModelClient
from worker.methods.whole_model.fine_tuning import change_of, change_shapes, with_change
from worker.methods.whole_model.sgd import train_parameters
from worker.models.initial_ranges import generated_tensors
from worker.models.layout import ParameterLayout, check_shapes
from worker.models.registry import FeatureExtractor, build_feature_extractor

Tensors = dict[str, torch.Tensor]


class ModelMethod(BaseMethod[Tensors]):
    """Base of the methods; see :class:`worker.methods.interface.Method`.

    Tensors: ``extractor.<name>`` for each trainable parameter of the extractor, the head's
    (:func:`worker.methods.local_round.head.head_shapes`), each shared or private, and the private
    ``buffers.<name>`` for each buffer that training changes. A client that fine-tuned what is
    shared also has ``change.<name>`` for each shared tensor.

    Attributes:
        plan_type: which hyperparameters the method has.
        shares_extractor: whether the extractor is shared.
        shares_head: whether the head is.
        fine_tunes_shared: whether personalising changes what is shared where nothing is private.
    """

    plan_type: ClassVar[type[ModelPlan]] = ModelPlan
    shares_extractor: ClassVar[bool]
    shares_head: ClassVar[bool]
    fine_tunes_shared: ClassVar[bool] = True
    _plan: ModelPlan

    def __init__(
        self, plan: TrainingPlan, device: torch.device, resources: SiteResources = DEFAULT_RESOURCES
    ) -> None:
        """Build the feature extractor and check it.

        Raises:
            ModelError: the plan's feature extractor cannot be used.
            pydantic.ValidationError: the plan's hyperparameters are not the method's.
        """
        super().__init__(plan.num_classes)
        self._plan = self.plan_type.model_validate(plan.hyperparameters)
        self._device = device
        extractor = self.build_extractor(plan, resources)
        generated = generated_tensors(extractor.module)
        self._extractor = FunctionalExtractor(
            extractor,
            ParameterLayout(generated),
            device,
            feature_dropout=self._plan.feature_dropout,
            mixed_precision=self.mixed_precision(device),
            max_cache_bytes=resources.max_feature_cache_bytes,
        )
        hidden_width = extractor.private_hidden_width
        head = head_tensors(plan.num_classes, extractor.feature_width, hidden_width)
        body = [replace(one, name=EXTRACTOR_PREFIX + one.name) for one in generated]
        kept = {EXTRACTOR_PREFIX + name for name in self.kept_back(extractor.module)}
        self._shared = [one for one in body if self.shares_extractor and one.name not in kept]
        self._shared += head if self.shares_head else []
        if scalars := [one.name for one in self._shared if not one.shape]:
            raise ModelError(
                f"model {plan.model!r}: {scalars[0].removeprefix(EXTRACTOR_PREFIX)} is a scalar, "
                "which cannot be shared: give it the shape (1,)"
            )
        self._own = [one for one in (*body, *head) if one not in self._shared]
        self._initial_buffers = {
            BUFFER_PREFIX + name: buffer for name, buffer in own_buffers(extractor.module).items()
        }

    @abstractmethod
    def train_client(self, client: ModelClient) -> PrivateTensors:
        """The local round: trains ``client.parameters`` in place and adds to ``client.metrics``.

        Returns:
            The new values of :meth:`initial_extra`'s tensors.

        Raises:
            CannotTrain: the client may not; nothing of it is sent.
        """

    def build_extractor(self, plan: TrainingPlan, resources: SiteResources) -> FeatureExtractor:
        """The network. Raises ModelError if the plan's cannot be used."""
        return build_feature_extractor(plan.model, plan.image_shape, resources.allowed_imports)

    def kept_back(self, module: nn.Module) -> frozenset[str]:
        """Names of the extractor's parameters that stay private where the extractor is shared."""
        del module
        return frozenset()

    def model_of(self, private: Mapping[str, torch.Tensor], shared: Tensors) -> Tensors:
        """Parameters of a client's model by name: by default the shared ones and its own."""
        return dict(shared) | {
            one.name: private[one.name].to(self._device, copy=True) for one in self._own
        }

    def model_in_use(self, client: ModelClient, shared: Tensors) -> Tensors:
        """What a client uses that has not trained on ``shared``: by default :meth:`model_of`."""
        return self.model_of(client.private, shared)

    def mixed_precision(self, device: torch.device) -> bool:
        """Whether features are computed in bfloat16 on ``device``."""
        del device
        return False

    def personal_settings(self) -> SGDSettings:
        """Of the descent in :meth:`personalize`."""
        return settings_of(self._plan)

    def initial_extra(self) -> PrivateTensors:
        """Private tensors beside the model, of any shape: what the method must remember."""
        return {}

    def parameters(self, seed: int) -> ParameterSpecification:
        """The shared parts, which start as their layers do by default."""
        return ParameterSpecification(
            seed=seed,
            tensors=tuple(
                TensorSpecification(
                    name=one.name,
                    shape=one.shape,
                    initialisation=(
                        RowRange(rows=one.shape[0], centre=one.centre, bound=one.bound),
                    ),
                )
                for one in self._shared
            ),
        )

    def initial_private(self, client_seed: int) -> PrivateTensors:
        """The parts that are not shared, drawn as their layers are by default; buffers; extras."""
        generator = client_generator(client_seed, "initial")
        drawn = {
            one.name: one.centre + drawn_uniformly(one.shape, one.bound, generator)
            for one in self._own
        }
        buffers = {name: buffer.clone() for name, buffer in self._initial_buffers.items()}
        return drawn | buffers | self.initial_extra()

    def check_private(self, private: Mapping[str, torch.Tensor]) -> None:
        """Raises ValueError unless names and shapes are those listed at the class."""
        expected = {one.name: one.shape for one in self._own}
        kept = self._initial_buffers | self.initial_extra()
        if not self._own and self.fine_tunes_shared:
            expected |= change_shapes(private, {one.name: one.shape for one in self._shared})
        check_shapes(private, expected | {name: tuple(kept[name].shape) for name in kept})

    def read(self, weights: NamedArrays) -> Tensors:
        """The shared tensors on the device; see :class:`BaseMethod`."""
        # torch.tensor copies: weights decoded from a file are read-only.
        tensors = {name: torch.tensor(array) for name, array in weights.items()}
        check_shapes(tensors, {one.name: one.shape for one in self._shared})
        return {one.name: tensors[one.name].to(self._device) for one in self._shared}

    def train_group(
        self,
        group: Sequence[Participant],
        shared: Tensors,
        round_number: int,
        stop_if_asked: Callable[[], None],
    ) -> Iterator[TrainingResult | NothingToSend]:
        """One client after the other; see :class:`BaseMethod`."""
        for participant in group:
            stop_if_asked()
            client = self._client(participant, shared, round_number, stop_if_asked)
            try:
                yield self._train_one(client, shared)
            except CannotTrain as reason:
                yield NothingToSend(participant.name, str(reason), reason.kind)

    def logits_of(self, participant: Participant, shared: Tensors) -> torch.Tensor:
        """See :class:`BaseMethod`."""
        shared = with_change(participant, shared)
        client = self._client(participant, shared, 0, lambda: None)
        return client.logits_of_test(self.model_in_use(client, shared))

    def personalize(
        self,
        participant: Participant,
        weights: NamedArrays,
        epochs: int,
        should_stop: Callable[[], bool],
    ) -> PrivateTensors:
        """What is the client's own, or the change of all that is shared; see the module.

        Nothing of it is sent, so that a method's noise is not needed and its budget not touched.
        """
        self.check(participant)
        shared = self.read(weights)
        start = with_change(participant, shared)
        client = self._client(participant, start, 0, raising_stop(should_stop))
        train_parameters(
            client,
            {one.name: client.parameters[one.name] for one in self._own or self._shared},
            self.personal_settings(),
            epochs=epochs,
            batch_size=self._plan.batch_size,
        )
        private = {one.name: client.parameters[one.name] for one in self._own} | client.buffers
        if not self._own:
            private |= change_of(client.parameters, shared)
        if not all(bool(tensor.isfinite().all()) for tensor in private.values()):
            raise TrainingDivergedError([client.name])
        private |= {name: participant.private[name] for name in self.initial_extra()}
        return {name: tensor.to("cpu", copy=True) for name, tensor in private.items()}

    def personal_model(self, participant: Participant, weights: NamedArrays) -> PersonalModel:
        """See :class:`worker.methods.interface.BuildsPersonalModel`."""
        self.check(participant)
        shared = with_change(participant, self.read(weights))
        model = self.model_in_use(self._client(participant, shared, 0, lambda: None), shared)
        extractor = {
            name.removeprefix(EXTRACTOR_PREFIX): one.cpu()
            for name, one in model.items()
            if name.startswith(EXTRACTOR_PREFIX)
        }
        head = {name: one.cpu() for name, one in model.items() if name.startswith(HEAD_PREFIX)}
        buffers = {
            name.removeprefix(BUFFER_PREFIX): participant.private[name]
            for name in self._initial_buffers
        }
        return PersonalModel(self._extractor.copy_with(extractor, buffers), head_module(head))

    def _train_one(self, client: ModelClient, shared: Tensors) -> TrainingResult:
        accuracy, loss = client.evaluate(self.model_in_use(client, shared))
        client.metrics |= {"accuracy_before": accuracy, "loss_before": loss}
        started = time.perf_counter()
        extra = self.train_client(client)
        client.metrics["seconds_training"] = time.perf_counter() - started
        own = {one.name: client.parameters[one.name] for one in self._own} | client.buffers | extra
        after = {name: client.parameters[name] for name in shared}
        accuracy, loss = client.evaluate(self.model_of(own, after))
        client.metrics |= {"accuracy_after": accuracy, "loss_after": loss}
        return TrainingResult(
            participant=client.name,
            num_examples=client.num_examples,
            deltas={name: (after[name] - before).cpu().numpy() for name, before in shared.items()},
            private={name: tensor.to("cpu", copy=True) for name, tensor in own.items()},
            metrics=client.metrics,
        )

    def _client(
        self,
        participant: Participant,
        shared: Tensors,
        round_number: int,
        stop_if_asked: Callable[[], None],
    ) -> ModelClient:
        own = {one.name: participant.private[one.name] for one in self._own}
        return ModelClient(
            participant, shared | own, round_number, self._extractor, self._device, stop_if_asked
        )
