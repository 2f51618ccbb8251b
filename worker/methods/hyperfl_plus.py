"""HyperFL++: HyperFL with a hypernetwork whose output layer is of Kronecker products.

What is exchanged is so much smaller. Embedding and head stay with the client, as HyperFL's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from shared.arrays import NamedArrays
from shared.federation.hyperparameters import HyperFLPlusPlan
from shared.federation.plans import TrainingPlan
from shared.federation.specification import ParameterSpecification
from worker.methods.hypernetwork.client import HyperFLClient
from worker.methods.hypernetwork.kronecker import (
    KroneckerLayout,
    KroneckerWeights,
    expected_norm_squared,
    kronecker_parameters,
)
from worker.methods.hypernetwork.kronecker_group import KroneckerGroup
from worker.methods.hypernetwork.method import HypernetworkMethod
from worker.methods.interface import DEFAULT_RESOURCES, SiteResources
from worker.methods.local_round.sgd import SGDSettings
from worker.models.registry import build_feature_extractor

_COPIES_OF_SHARED = 5
"""φ's values, velocities and gradients, these clipped, and what its gradients are computed from."""
_COPIES_OF_THETA = 6
"""θ, twice while a step computes its gradient, with what it is added up from; and ∂L/∂θ."""


class HyperFLPlus(HypernetworkMethod[KroneckerWeights]):
    """The method, for one training plan; private tensors as :class:`HypernetworkMethod` says."""

    def __init__(
        self, plan: TrainingPlan, device: torch.device, resources: SiteResources = DEFAULT_RESOURCES
    ) -> None:
        """Build the feature extractor and check it.

        Raises:
            ModelError: the plan's feature extractor cannot be used.
            pydantic.ValidationError: the plan's hyperparameters are not the method's.
        """
        self._plan = HyperFLPlusPlan.model_validate(plan.hyperparameters)
        super().__init__(
            plan,
            self._plan,
            build_feature_extractor(plan.model, plan.image_shape, resources.allowed_imports),
            device,
            resources,
            first_norm_squared=expected_norm_squared(
                self._plan.hidden_size, self._plan.feature_scale, self._plan.output_spread
            ),
        )
        self._products = KroneckerLayout.of(self._layout.tensors)

    def parameters(self, seed: int) -> ParameterSpecification:
        """The hypernetwork's six tensors."""
        return kronecker_parameters(
            self._layout.tensors,
            self._products,
            embedding_size=self._plan.embedding_size,
            hidden_size=self._plan.hidden_size,
            feature_scale=self._plan.feature_scale,
            output_spread=self._plan.output_spread,
            seed=seed,
        )

    def read(self, weights: NamedArrays) -> KroneckerWeights:
        """φ on the device; see :class:`BaseMethod`."""
        specification = self.parameters(seed=0)
        return KroneckerWeights.from_arrays(weights, specification, self._products, self._device)

    def group_for(
        self,
        shared: KroneckerWeights,
        embeddings: torch.Tensor,
        num_steps: int,  # noqa: ARG002 - only HyperFL's factors grow with them
        sgd: SGDSettings,
    ) -> KroneckerGroup:
        """See :class:`HypernetworkMethod`."""
        return KroneckerGroup(
            shared,
            embeddings,
            feature_scale=self._plan.feature_scale,
            settings=sgd,
            clip_norm=self._plan.clip_norm,
        )

    def parts(
        self, clients: Sequence[HyperFLClient], shared: KroneckerWeights
    ) -> Iterator[list[HyperFLClient]]:
        """See :class:`HypernetworkMethod`: by the bytes of φ, θ and their gradients."""
        num_shared = sum(tensor.numel() for tensor in shared.tensors.values())
        elements = _COPIES_OF_SHARED * num_shared + _COPIES_OF_THETA * self._products.num_elements
        of_client = elements * shared.left.element_size()
        size = max(1, self._max_factor_bytes // of_client)
        for start in range(0, len(clients), size):
            yield list(clients[start : start + size])
