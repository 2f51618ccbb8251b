"""HyperFL (arXiv 2412.07187): share a hypernetwork, keep the embedding and the head.

A pass over the shared weights serves all clients of a group
(``worker.methods.hypernetwork.factored_sgd``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch

from shared.arrays import Array, NamedArrays
from shared.federation.hyperparameters import HyperFLPlan
from shared.federation.plans import TrainingPlan
from shared.federation.specification import ParameterSpecification
from worker.methods.hypernetwork.bias_group import BiasGroup
from worker.methods.hypernetwork.client import HyperFLClient
from worker.methods.hypernetwork.factored_sgd import rows_needed
from worker.methods.hypernetwork.lock_step import HypernetworkGroup
from worker.methods.hypernetwork.method import HypernetworkMethod
from worker.methods.hypernetwork.parts import parts_within
from worker.methods.hypernetwork.private_round import private_round_for
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
    PrivateTensors,
    SiteResources,
    TrainingResult,
)
from worker.methods.local_round.base_method import NothingToSend
from worker.methods.local_round.sgd import SGDSettings
from worker.models.registry import FeatureExtractor, build_feature_extractor

_PUBLIC_SEED = 0
"""Of the trunk and of W, where b alone is shared: everybody draws the same."""


class HyperFL(HypernetworkMethod[HypernetworkWeights]):
    """The method, for one training plan; private tensors as :class:`HypernetworkMethod` says."""

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
        extractor = extractor or build_feature_extractor(
            plan.model, plan.image_shape, resources.allowed_imports
        )
        super().__init__(
            plan,
            self._plan,
            extractor,
            device,
            resources,
            first_norm_squared=expected_norm_squared(
                self._plan.embedding_size, self._plan.hidden_size, self._plan.feature_scale
            ),
            mixed_precision=mixed_precision,
        )
        self._trains_only_bias = self._plan.shared_part == "output-bias"
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
        """As :class:`HypernetworkMethod` has it.

        Where b alone is trained, by private steps, the embedding starts where they see it: at 0.
        """
        private = super().initial_private(client_seed)
        if self._private_round is not None:
            private["embedding"].zero_()
        return private

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

    def train_group(
        self,
        group: Sequence[Participant],
        shared: HypernetworkWeights,
        round_number: int,
        stop_if_asked: Callable[[], None],
    ) -> Iterator[TrainingResult | NothingToSend]:
        """Clients in lock step, or one after the other by private steps; see :class:`BaseMethod`.

        Private steps have only the common metrics.
        """
        if self._private_round is None:
            yield from super().train_group(group, shared, round_number, stop_if_asked)
            return
        for participant in group:
            yield self._private_round.train(participant, shared, round_number, stop_if_asked)

    def group_for(
        self,
        shared: HypernetworkWeights,
        embeddings: torch.Tensor,
        num_steps: int,
        sgd: SGDSettings,
    ) -> HypernetworkGroup | BiasGroup:
        """See :class:`HypernetworkMethod`."""
        plan = self._plan
        if self._trains_only_bias:
            return BiasGroup(
                shared,
                embeddings,
                feature_scale=plan.feature_scale,
                settings=sgd,
                clip_norm=plan.clip_norm,
            )
        return HypernetworkGroup(
            shared,
            embeddings,
            feature_scale=plan.feature_scale,
            max_rows=rows_needed(plan.hidden_size, num_steps),
            settings=sgd,
            clip_norm=plan.clip_norm,
        )

    def parts(
        self, clients: Sequence[HyperFLClient], shared: HypernetworkWeights
    ) -> Iterator[list[HyperFLClient]]:
        """See :class:`HypernetworkMethod`: by the bytes of the factors."""
        return parts_within(clients, shared.output_weight, self._max_factor_bytes)
