"""HyperFL (arXiv 2412.07187): share a hypernetwork, keep the embedding and the head.

A local round is a head step on fixed features, then SGD on the hypernetwork and the embedding
through the parameters they generate. The clients of a group take their steps together, so that a
pass over the shared weights serves them all (``worker.methods.hypernetwork.factored_sgd``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import structlog
import torch

from shared.arrays import Array, NamedArrays
from shared.federation.hyperparameters import HyperFLPlan
from shared.federation.plans import TrainingPlan
from shared.federation.specification import ParameterSpecification
from worker.methods.hypernetwork.bias_group import BiasChange
from worker.methods.hypernetwork.client import HyperFLClient
from worker.methods.hypernetwork.group import deltas_of, group_for, parts_within
from worker.methods.hypernetwork.lock_step import HypernetworkChange
from worker.methods.hypernetwork.personalization import PrivateFit
from worker.methods.hypernetwork.private_round import private_round_for
from worker.methods.hypernetwork.public_head import training_head_of
from worker.methods.hypernetwork.step_gradients import StepGradients
from worker.methods.hypernetwork.weights import (
    HypernetworkWeights,
    all_but_output_bias,
    expected_norm_squared,
    hypernetwork_parameters,
    only_output_bias,
)
from worker.methods.interface import (
    DEFAULT_RESOURCES,
    Participant,
    PersonalModel,
    PrivateTensors,
    SiteResources,
    TrainingResult,
)
from worker.methods.local_round.base_method import BaseMethod, NothingToSend, raising_stop
from worker.methods.local_round.client import BUFFER_PREFIX
from worker.methods.local_round.extractor import FunctionalExtractor, own_buffers
from worker.methods.local_round.head import head_module, head_shapes, initial_head
from worker.methods.local_round.random_streams import client_generator, drawn_normally
from worker.models.initial_ranges import generated_tensors
from worker.models.layout import ParameterLayout, check_shapes
from worker.models.registry import FeatureExtractor, build_feature_extractor

COLLAPSED_SHARE = 0.05
"""Share of its expected first value under which ‖f‖² leaves θ without the embedding's part."""

_PUBLIC_SEED = 0
"""Of the trunk and of W, where b alone is shared: everybody draws the same."""

_logger = structlog.get_logger()


class HyperFL(BaseMethod[HypernetworkWeights]):
    """The method, for one training plan. See :class:`worker.methods.interface.Method`.

    Private tensors: ``embedding`` (e,), the head's (:mod:`worker.methods.local_round.head`), and
    ``buffers.<name>`` for each buffer of the feature extractor that training changes.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        device: torch.device,
        resources: SiteResources = DEFAULT_RESOURCES,
        *,
        settings: HyperFLPlan | None = None,
        extractor: FeatureExtractor | None = None,
        mixed_precision: bool = False,
    ) -> None:
        """Build the feature extractor and check it.

        Args:
            plan: of the federation.
            device: to train on.
            resources: of the machine.
            settings: instead of the plan's hyperparameters as HyperFL reads them.
            extractor: instead of the plan's model by name.
            mixed_precision: see :class:`FunctionalExtractor`.

        Raises:
            ModelError: the plan's feature extractor cannot be used.
        """
        self._plan = settings or HyperFLPlan.model_validate(plan.hyperparameters)
        super().__init__(plan.num_classes)
        self._device, self._max_factor_bytes = device, resources.max_factor_bytes
        extractor = extractor or build_feature_extractor(
            plan.model, plan.image_shape, resources.allowed_imports
        )
        self._layout = ParameterLayout(generated_tensors(extractor.module))
        self._extractor = FunctionalExtractor(
            extractor,
            self._layout,
            device,
            feature_dropout=self._plan.feature_dropout,
            mixed_precision=mixed_precision,
            max_cache_bytes=resources.max_feature_cache_bytes,
        )
        self._step_gradients = StepGradients(self._extractor, extractor, device)
        self._initial_buffers = {
            BUFFER_PREFIX + name: buffer for name, buffer in own_buffers(extractor.module).items()
        }
        self._head_shapes = head_shapes(
            plan.num_classes, extractor.feature_width, extractor.private_hidden_width
        )
        self._private_shapes: dict[str, tuple[int, ...]] = {
            "embedding": (self._plan.embedding_size,),
            **self._head_shapes,
        } | {name: tuple(buffer.shape) for name, buffer in self._initial_buffers.items()}
        self._training_head = training_head_of(self._plan, plan, extractor)
        self._collapsed_norm_squared = COLLAPSED_SHARE * expected_norm_squared(
            self._plan.embedding_size, self._plan.hidden_size, self._plan.feature_scale
        )
        self._trains_only_bias = self._plan.shared_part == "output-bias"
        self._fit = PrivateFit(self._plan, self._extractor, device)
        self._private_round = private_round_for(
            plan, self._plan, extractor, self._extractor, self._layout, device, self._fit
        )

    def parameters(self, seed: int) -> ParameterSpecification:
        """The hypernetwork's four tensors, or of these b alone."""
        hypernetwork = self._hypernetwork(seed)
        return only_output_bias(hypernetwork) if self._trains_only_bias else hypernetwork

    def _hypernetwork(self, seed: int) -> ParameterSpecification:
        return hypernetwork_parameters(
            self._layout.tensors,
            embedding_size=self._plan.embedding_size,
            hidden_size=self._plan.hidden_size,
            feature_scale=self._plan.feature_scale,
            output_spread=self._plan.output_spread,
            seed=seed,
        )

    def initial_private(self, client_seed: int) -> PrivateTensors:
        """Embedding from N(0, 1), head as linear layers by default, buffers as the module's.

        Where b alone is trained, by private steps, the embedding starts where they see it: at 0.
        """
        generator = client_generator(client_seed, "initial")
        embedding = drawn_normally((self._plan.embedding_size,), generator)
        if self._private_round is not None:
            embedding.zero_()
        buffers = {name: buffer.clone() for name, buffer in self._initial_buffers.items()}
        return {"embedding": embedding, **initial_head(self._head_shapes, generator)} | buffers

    def check_private(self, private: Mapping[str, torch.Tensor]) -> None:
        """Raises ValueError unless names and shapes are those listed at the class."""
        check_shapes(private, self._private_shapes)

    def read(self, weights: NamedArrays) -> HypernetworkWeights:
        """φ on the device; see :class:`BaseMethod`."""
        self.parameters(seed=0).check_names(weights)
        hypernetwork = self._hypernetwork(_PUBLIC_SEED)
        if self._trains_only_bias:
            weights = {**self._fixed_part, **weights}
        return HypernetworkWeights.from_arrays(weights, hypernetwork, self._device)

    @cached_property
    def _fixed_part(self) -> dict[str, Array]:
        return all_but_output_bias(self._hypernetwork(_PUBLIC_SEED))

    def logits_of(self, participant: Participant, shared: HypernetworkWeights) -> torch.Tensor:
        """See :class:`BaseMethod`."""
        client = self._client(participant, 0, lambda: None)
        return client.logits_of_test(shared.generate(client.embedding, self._plan.feature_scale))

    def personalize(
        self,
        participant: Participant,
        weights: NamedArrays,
        epochs: int,
        should_stop: Callable[[], bool],
    ) -> PrivateTensors:
        """Embedding, head and buffers; see :class:`worker.methods.interface.Personalizes`."""
        self.check(participant)
        # Rounds count from 1, so that no round draws what this draws.
        client = self._fit.client(participant, 0, epochs, raising_stop(should_stop))
        return self._fit.run(client, self.read(weights), epochs)

    def personal_model(self, participant: Participant, weights: NamedArrays) -> PersonalModel:
        """See :class:`worker.methods.interface.BuildsPersonalModel`."""
        self.check(participant)
        private = participant.private
        theta = self.read(weights).generate(
            private["embedding"].to(self._device), self._plan.feature_scale
        )
        head = head_module({name: private[name] for name in self._head_shapes})
        buffers = {
            name.removeprefix(BUFFER_PREFIX): private[name] for name in self._initial_buffers
        }
        generated = self._layout.split(theta.cpu())
        return PersonalModel(self._extractor.copy_with(generated, buffers), head)

    def _client(
        self, participant: Participant, round_number: int, stop_if_asked: Callable[[], None]
    ) -> HyperFLClient:
        return HyperFLClient(
            participant,
            round_number,
            self._extractor,
            self._plan,
            self._device,
            stop_if_asked,
            self._training_head,
        )

    def train_group(
        self,
        group: Sequence[Participant],
        shared: HypernetworkWeights,
        round_number: int,
        stop_if_asked: Callable[[], None],
    ) -> Iterator[TrainingResult | NothingToSend]:
        """Clients in lock step; see :class:`BaseMethod`.

        Metrics beside the common ones: ``train_loss`` over the last epoch and
        ``feature_norm_squared``, ‖f‖² at the end. Private steps have neither.
        """
        if self._private_round is not None:
            for participant in group:
                yield self._private_round.train(participant, shared, round_number, stop_if_asked)
            return
        clients = [self._client(participant, round_number, stop_if_asked) for participant in group]
        for part in parts_within(clients, shared.output_weight, self._max_factor_bytes):
            for result in self._train_part(part, shared, round_number):
                if result.metrics["feature_norm_squared"] < self._collapsed_norm_squared:
                    _logger.warning(
                        "trunk has collapsed: the embedding has no effect",
                        client=result.participant,
                        round=round_number,
                        feature_norm_squared=result.metrics["feature_norm_squared"],
                    )
                yield result

    def _train_part(
        self,
        clients: list[HyperFLClient],
        weights: HypernetworkWeights,
        round_number: int,
    ) -> Iterator[TrainingResult]:
        # Longest first, so that those still training are always the first ones.
        clients = sorted(clients, key=lambda client: -client.num_steps)
        embeddings = torch.stack([client.embedding for client in clients])
        hypernetworks = group_for(
            self._plan, weights, embeddings, clients[0].num_steps, round_number
        )
        for client, theta in zip(clients, hypernetworks.generate(len(clients)), strict=True):
            accuracy, loss = client.evaluate(theta)
            client.metrics |= {"accuracy_before": accuracy, "loss_before": loss}
            client.train_head(theta)
        step, count = 0, len(clients)
        while count:
            started = time.perf_counter()
            thetas = hypernetworks.generate(count)
            gradients = hypernetworks.gradient_rows(count)
            self._step_gradients.write(clients[:count], thetas, gradients)
            hypernetworks.step(count)
            step += 1
            seconds = (time.perf_counter() - started) / count
            for client in clients[:count]:
                client.metrics["seconds_training"] += seconds
            remaining = sum(client.num_steps > step for client in clients[:count])
            if remaining < count:
                thetas = hypernetworks.generate(count)
                for index in range(remaining, count):
                    yield self._result(clients[index], thetas[index], hypernetworks.change(index))
            count = remaining

    def _result(
        self, client: HyperFLClient, theta: torch.Tensor, change: HypernetworkChange | BiasChange
    ) -> TrainingResult:
        accuracy, loss = client.evaluate(theta)
        return TrainingResult(
            participant=client.name,
            num_examples=client.num_examples,
            deltas=deltas_of(change),
            private=client.private(change.embedding),
            metrics=client.metrics
            | {
                "accuracy_after": accuracy,
                "loss_after": loss,
                "train_loss": client.train_loss,
                "feature_norm_squared": change.feature_norm_squared,
            },
        )
