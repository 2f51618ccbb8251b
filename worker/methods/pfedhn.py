"""pFedHN (Shamsian et al., ICML 2021): a hypernetwork generates a client's model and its head.

A client trains what is generated for it by plain SGD, and its change Δθ pulls hypernetwork and
embedding after it: one step along the transposed Jacobian times −Δθ. In the paper that step is the
coordinator's, which also has the embeddings. Here the client takes it, with the same result for
one client a round, and the embedding stays with the client. The trunk is HyperFL's, of one layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from shared.arrays import NamedArrays
from shared.federation.hyperparameters import PFedHNPlan
from shared.federation.plans import TrainingPlan
from shared.federation.specification import ParameterSpecification
from worker.methods.hypernetwork.pull import pull_towards
from worker.methods.hypernetwork.weights import HypernetworkWeights, hypernetwork_parameters
from worker.methods.interface import (
    DEFAULT_RESOURCES,
    Participant,
    PersonalModel,
    PrivateTensors,
    SiteResources,
    TrainingDivergedError,
    TrainingResult,
)
from worker.methods.local_round.base_method import BaseMethod, NothingToSend, raising_stop
from worker.methods.local_round.client import BUFFER_PREFIX, HEAD_PREFIX
from worker.methods.local_round.extractor import FunctionalExtractor, own_buffers
from worker.methods.local_round.head import head_module, head_tensors
from worker.methods.local_round.random_streams import client_generator, drawn_normally
from worker.methods.local_round.sgd import clip_factor, settings_of, sgd_step
from worker.methods.whole_model.client import EXTRACTOR_PREFIX, ModelClient
from worker.methods.whole_model.sgd import train_model
from worker.models.initial_ranges import generated_tensors
from worker.models.layout import ParameterLayout, check_shapes
from worker.models.registry import build_feature_extractor


class PFedHN(BaseMethod[HypernetworkWeights]):
    """The method, for one training plan. See :class:`worker.methods.interface.Method`.

    Private tensors: ``embedding`` (e,), and ``buffers.<name>`` for each buffer of the feature
    extractor that training changes.

    Attributes:
        layout: where the parameters of extractor and head lie in θ.
    """

    def __init__(
        self, plan: TrainingPlan, device: torch.device, resources: SiteResources = DEFAULT_RESOURCES
    ) -> None:
        """Build the feature extractor and check it.

        Raises:
            ModelError: the plan's feature extractor cannot be used.
            pydantic.ValidationError: the plan's hyperparameters are not the method's.
        """
        super().__init__(plan.num_classes)
        self._plan = PFedHNPlan.model_validate(plan.hyperparameters)
        self._device = device
        extractor = build_feature_extractor(plan.model, plan.image_shape, resources.allowed_imports)
        body = generated_tensors(extractor.module)
        self._extractor = FunctionalExtractor(
            extractor, ParameterLayout(body), device, feature_dropout=self._plan.feature_dropout
        )
        head = head_tensors(
            plan.num_classes, extractor.feature_width, extractor.private_hidden_width
        )
        self.layout = ParameterLayout(
            [*(replace(one, name=EXTRACTOR_PREFIX + one.name) for one in body), *head]
        )
        self._initial_buffers = {
            BUFFER_PREFIX + name: buffer for name, buffer in own_buffers(extractor.module).items()
        }

    def parameters(self, seed: int) -> ParameterSpecification:
        """The hypernetwork's four tensors."""
        return hypernetwork_parameters(
            self.layout.tensors,
            embedding_size=self._plan.embedding_size,
            hidden_size=self._plan.hidden_size,
            feature_scale=self._plan.feature_scale,
            output_spread=self._plan.output_spread,
            seed=seed,
        )

    def initial_private(self, client_seed: int) -> PrivateTensors:
        """Embedding from N(0, 1), buffers as the module's."""
        generator = client_generator(client_seed, "initial")
        embedding = drawn_normally((self._plan.embedding_size,), generator)
        buffers = {name: buffer.clone() for name, buffer in self._initial_buffers.items()}
        return {"embedding": embedding, **buffers}

    def check_private(self, private: Mapping[str, torch.Tensor]) -> None:
        """Raises ValueError unless names and shapes are those listed at the class."""
        buffers = {name: tuple(one.shape) for name, one in self._initial_buffers.items()}
        check_shapes(private, {"embedding": (self._plan.embedding_size,), **buffers})

    def read(self, weights: NamedArrays) -> HypernetworkWeights:
        """φ on the device; see :class:`BaseMethod`."""
        return HypernetworkWeights.from_arrays(weights, self.parameters(seed=0), self._device)

    def train_group(
        self,
        group: Sequence[Participant],
        shared: HypernetworkWeights,
        round_number: int,
        stop_if_asked: Callable[[], None],
    ) -> Iterator[TrainingResult | NothingToSend]:
        """One client after the other; see :class:`BaseMethod`.

        Metrics beside the common ones: ``train_loss`` over the last epoch and
        ``feature_norm_squared``, ‖f‖² before the pull.
        """
        for participant in group:
            stop_if_asked()
            yield self._train_one(participant, shared, round_number, stop_if_asked)

    def logits_of(self, participant: Participant, shared: HypernetworkWeights) -> torch.Tensor:
        """See :class:`BaseMethod`."""
        client = self._client(participant, self._generated(participant, shared), 0, lambda: None)
        return client.logits_of_test(client.parameters)

    def personalize(
        self,
        participant: Participant,
        weights: NamedArrays,
        epochs: int,
        should_stop: Callable[[], bool],
    ) -> PrivateTensors:
        """Embedding and buffers after ``epochs`` of SGD on the embedding; ``weights`` stay."""
        self.check(participant)
        shared, settings = self.read(weights), settings_of(self._plan)
        # Rounds count from 1, so that no round draws what this draws.
        client = self._client(
            participant, self._generated(participant, shared), 0, raising_stop(should_stop)
        )
        embedding = participant.private["embedding"].to(self._device, copy=True)
        velocity = torch.zeros_like(embedding)
        for _ in range(epochs):
            for batch in client.shuffled_batches(self._plan.batch_size):
                variable = embedding.detach().requires_grad_()
                theta = shared.generate(variable, self._plan.feature_scale)
                with client.training_mode():
                    loss = client.loss(self.layout.split(theta), batch)
                (gradient,) = torch.autograd.grad(loss, variable)
                gradient *= clip_factor(torch.linalg.vector_norm(gradient), self._plan.clip_norm)
                sgd_step(embedding, gradient, velocity, settings)
        private = {"embedding": embedding, **client.buffers}
        if not all(bool(tensor.isfinite().all()) for tensor in private.values()):
            raise TrainingDivergedError([client.name])
        return {name: tensor.to("cpu", copy=True) for name, tensor in private.items()}

    def personal_model(self, participant: Participant, weights: NamedArrays) -> PersonalModel:
        """See :class:`worker.methods.interface.BuildsPersonalModel`."""
        self.check(participant)
        model = self.layout.split(self._generated(participant, self.read(weights)).cpu())
        extractor = {
            name.removeprefix(EXTRACTOR_PREFIX): one
            for name, one in model.items()
            if name.startswith(EXTRACTOR_PREFIX)
        }
        head = {name: one for name, one in model.items() if name.startswith(HEAD_PREFIX)}
        buffers = {
            name.removeprefix(BUFFER_PREFIX): participant.private[name]
            for name in self._initial_buffers
        }
        return PersonalModel(self._extractor.copy_with(extractor, buffers), head_module(head))

    def _generated(self, participant: Participant, shared: HypernetworkWeights) -> torch.Tensor:
        embedding = participant.private["embedding"].to(self._device)
        return shared.generate(embedding, self._plan.feature_scale)

    def _client(
        self,
        participant: Participant,
        theta: torch.Tensor,
        round_number: int,
        stop_if_asked: Callable[[], None],
    ) -> ModelClient:
        model = self.layout.split(theta)
        return ModelClient(
            participant, model, round_number, self._extractor, self._device, stop_if_asked
        )

    def _train_one(
        self,
        participant: Participant,
        shared: HypernetworkWeights,
        round_number: int,
        stop_if_asked: Callable[[], None],
    ) -> TrainingResult:
        embedding = participant.private["embedding"].to(self._device)
        theta = shared.generate(embedding, self._plan.feature_scale)
        client = self._client(participant, theta, round_number, stop_if_asked)
        accuracy, loss = client.evaluate(client.parameters)
        client.metrics |= {"accuracy_before": accuracy, "loss_before": loss}
        started = time.perf_counter()
        train_model(client, self._plan)
        trained = [client.parameters[one.name].reshape(-1) for one in self.layout.tensors]
        pull = pull_towards(shared, embedding, torch.cat(trained) - theta, self._plan)
        client.metrics["seconds_training"] = time.perf_counter() - started
        accuracy, loss = client.evaluate(client.parameters)
        client.metrics |= {"accuracy_after": accuracy, "loss_after": loss}
        client.metrics["feature_norm_squared"] = pull.feature_norm_squared
        private = {"embedding": embedding + pull.embedding, **client.buffers}
        return TrainingResult(
            participant=client.name,
            num_examples=client.num_examples,
            deltas=pull.deltas,
            private={name: tensor.to("cpu", copy=True) for name, tensor in private.items()},
            metrics=client.metrics,
        )
