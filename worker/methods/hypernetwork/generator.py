"""What generates an extractor's parameters, and the clients that train it together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from shared.arrays import Array
from shared.tensors.low_rank import FactoredDelta


class Generator(Protocol):
    """φ: the shared weights of a hypernetwork."""

    def generate(self, embedding: torch.Tensor, feature_scale: float) -> torch.Tensor:
        """θ (P,) of one client with embedding v (e,); differentiable in v."""


class Change(Protocol):
    """What a round made of one client's hypernetwork and embedding."""

    @property
    def embedding(self) -> torch.Tensor:
        """The client's v (e,) after the round."""

    @property
    def feature_norm_squared(self) -> float:
        """‖f‖² after the round."""

    def deltas(self) -> Mapping[str, Array | FactoredDelta]:
        """The changes of the shared tensors, by name."""


class Group(Protocol):
    """The hypernetworks and embeddings of n clients; the first ``count`` take part in a step.

    A step is: :meth:`generate`, then write ∂L/∂θ into :meth:`gradient_rows`, then :meth:`step`.
    """

    def generate(self, count: int) -> torch.Tensor:
        """θ (count, P) of the first ``count`` clients' present weights and embeddings."""

    def gradient_rows(self, count: int) -> torch.Tensor:
        """Where ∂L/∂θ (count, P) of the coming step belongs: the caller writes it there."""

    def step(self, count: int) -> None:
        """Take one step of the first ``count`` clients, with the gradients the caller wrote."""

    def change(self, client: int) -> Change:
        """What the steps so far made of one client.

        To be asked when the client has taken its last step, before the others take another.
        """
