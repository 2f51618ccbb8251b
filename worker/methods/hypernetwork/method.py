"""What methods that train a hypernetwork have in common, whatever generates θ from an embedding.

A local round is a head step on fixed features, then SGD on the hypernetwork and the embedding
through the parameters they generate. The clients of a group take their steps together.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import structlog
import torch

from shared.arrays import NamedArrays
from shared.federation.hyperparameters import HypernetworkPlan
from shared.federation.plans import TrainingPlan
from worker.methods.hypernetwork.client import HyperFLClient
from worker.methods.hypernetwork.generator import Change, Generator, Group
from worker.methods.hypernetwork.personalization import PrivateFit
from worker.methods.hypernetwork.public_head import training_head_of
from worker.methods.hypernetwork.step_gradients import StepGradients
from worker.methods.interface import (
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
from worker.methods.local_round.sgd import SGDSettings, settings_of
from worker.models.initial_ranges import generated_tensors
from worker.models.layout import ParameterLayout, check_shapes
from worker.models.registry import FeatureExtractor

COLLAPSED_SHARE = 0.05
"""Share of its expected first value under which ‖f‖² leaves θ without the embedding's part."""

_logger = structlog.get_logger()

GeneratorT = TypeVar("GeneratorT", bound=Generator)


class HypernetworkMethod(BaseMethod[GeneratorT]):
    """A method, for one training plan, whose ``GeneratorT`` is φ.

    Private tensors: ``embedding`` (e,), the head's (:mod:`worker.methods.local_round.head`), and
    ``buffers.<name>`` for each buffer of the feature extractor that training changes.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        settings: HypernetworkPlan,
        extractor: FeatureExtractor,
        device: torch.device,
        resources: SiteResources,
        *,
        first_norm_squared: float,
        mixed_precision: bool = False,
    ) -> None:
        """Check the feature extractor.

        Args:
            plan: of the federation.
            settings: the plan's hyperparameters.
            extractor: whose parameters are generated.
            device: to train on.
            resources: of the machine.
            first_norm_squared: ‖f‖² that is expected at the start.
            mixed_precision: see :class:`FunctionalExtractor`.

        Raises:
            ModelError: the feature extractor cannot be used.
        """
        super().__init__(plan.num_classes)
        self._settings = settings
        self._device, self._max_factor_bytes = device, resources.max_factor_bytes
        self._layout = ParameterLayout(generated_tensors(extractor.module))
        self._extractor = FunctionalExtractor(
            extractor,
            self._layout,
            device,
            feature_dropout=settings.feature_dropout,
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
            "embedding": (settings.embedding_size,),
            **self._head_shapes,
        } | {name: tuple(buffer.shape) for name, buffer in self._initial_buffers.items()}
        self._training_head = training_head_of(settings, plan, extractor)
        self._collapsed_norm_squared = COLLAPSED_SHARE * first_norm_squared
        self._fit = PrivateFit(settings, self._extractor, device)

    @abstractmethod
    def group_for(
        self, shared: GeneratorT, embeddings: torch.Tensor, num_steps: int, sgd: SGDSettings
    ) -> Group:
        """Clients with ``embeddings`` (n, e) that take at most ``num_steps`` from ``shared``."""

    @abstractmethod
    def parts(
        self, clients: Sequence[HyperFLClient], shared: GeneratorT
    ) -> Iterator[list[HyperFLClient]]:
        """The clients in their order, in parts that the machine has memory for together."""

    def initial_private(self, client_seed: int) -> PrivateTensors:
        """Embedding from N(0, 1), head as linear layers by default, buffers as the module's."""
        generator = client_generator(client_seed, "initial")
        embedding = drawn_normally((self._settings.embedding_size,), generator)
        buffers = {name: buffer.clone() for name, buffer in self._initial_buffers.items()}
        return {"embedding": embedding, **initial_head(self._head_shapes, generator)} | buffers

    def check_private(self, private: Mapping[str, torch.Tensor]) -> None:
        """Raises ValueError unless names and shapes are those listed at the class."""
        check_shapes(private, self._private_shapes)

    def logits_of(self, participant: Participant, shared: GeneratorT) -> torch.Tensor:
        """See :class:`BaseMethod`."""
        client = self._client(participant, 0, lambda: None)
        return client.logits_of_test(
            shared.generate(client.embedding, self._settings.feature_scale)
        )

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
            private["embedding"].to(self._device), self._settings.feature_scale
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
            self._settings,
            self._device,
            stop_if_asked,
            self._training_head,
        )

    def train_group(
        self,
        group: Sequence[Participant],
        shared: GeneratorT,
        round_number: int,
        stop_if_asked: Callable[[], None],
    ) -> Iterator[TrainingResult | NothingToSend]:
        """Clients in lock step; see :class:`BaseMethod`.

        Metrics beside the common ones: ``train_loss`` over the last epoch and
        ``feature_norm_squared``, ‖f‖² at the end.
        """
        clients = [self._client(participant, round_number, stop_if_asked) for participant in group]
        for part in self.parts(clients, shared):
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
        shared: GeneratorT,
        round_number: int,
    ) -> Iterator[TrainingResult]:
        # Longest first, so that those still training are always the first ones.
        clients = sorted(clients, key=lambda client: -client.num_steps)
        embeddings = torch.stack([client.embedding for client in clients])
        sgd = replace(
            settings_of(self._settings), learning_rate=self._settings.learning_rate_in(round_number)
        )
        hypernetworks = self.group_for(shared, embeddings, clients[0].num_steps, sgd)
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

    def _result(self, client: HyperFLClient, theta: torch.Tensor, change: Change) -> TrainingResult:
        accuracy, loss = client.evaluate(theta)
        return TrainingResult(
            participant=client.name,
            num_examples=client.num_examples,
            deltas=dict(change.deltas()),
            private=client.private(change.embedding),
            metrics=client.metrics
            | {
                "accuracy_after": accuracy,
                "loss_after": loss,
                "train_loss": client.train_loss,
                "feature_norm_squared": change.feature_norm_squared,
            },
        )
