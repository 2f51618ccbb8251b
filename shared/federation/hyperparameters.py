"""Hyperparameters of the built-in methods, with their meaning, defaults and bounds."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_SETTINGS = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class HypernetworkPlan(BaseModel):
    """Hyperparameters of a local round that trains a hypernetwork, an embedding and a head."""

    model_config = _SETTINGS

    embedding_size: int = Field(default=16, ge=1, le=4096)
    """Length of v, with ‖v‖² about as large. The trunk's real learning rate is η(1 + ‖v‖²)."""
    hidden_size: int = Field(default=16, ge=1, le=4096)
    feature_scale: float = Field(default=0.25, gt=0.0, le=10.0)
    """Factor on the hidden features f. The extractor's real learning rate is η(1 + ‖f‖²)."""
    output_spread: float = Field(default=0.1, ge=0.0, le=1.0)
    """Size of the part of θ that depends on v at the start, relative to the target layers'."""
    head_epochs: int = Field(default=1, ge=0, le=1000)
    """The head's, before the hypernetwork's. All of a round's see the same features, dropout
    included: what is generated stays as it is meanwhile."""
    head_learning_rate: float = Field(default=0.1, gt=0.0, le=100.0)
    epochs: int = Field(default=5, ge=1, le=1000)
    learning_rate: float = Field(default=0.1, gt=0.0, le=100.0)
    batch_size: int = Field(default=50, ge=1, le=100_000)
    momentum: float = Field(default=0.5, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=5e-3, ge=0.0, lt=1.0)
    clip_norm: float = Field(default=3.0, gt=0.0, allow_inf_nan=False)
    """Largest norm of the hypernetwork's gradient, and separately of the embedding's."""
    feature_dropout: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Share of the features before the head that a training step leaves out."""
    training_head: Literal["public"] | None = None
    """``public``: the hypernetwork is trained with a head that everybody knows and nobody trains,
    so that all clients' features of a class point the same way. A client's own head is trained as
    ever, for its own use. None: it is trained with the client's own."""
    decay_rounds: int | None = Field(default=None, ge=1, le=1_000_000)
    """Rounds in which the hypernetwork's learning rate falls to nearly nothing; None: it stays."""

    def learning_rate_in(self, round_number: int) -> float:
        """Of the hypernetwork: half a cosine over ``decay_rounds``, and then its last value.

        Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts, a step of which is a round.
        """
        if self.decay_rounds is None:
            return self.learning_rate
        fallen = (min(max(round_number, 1), self.decay_rounds) - 1) / self.decay_rounds
        return self.learning_rate * (1 + math.cos(math.pi * fallen)) / 2


class HyperFLPlan(HypernetworkPlan):
    """Hyperparameters of HyperFL (arXiv 2412.07187).

    The defaults were measured on Fashion-MNIST with the paper's partition (docs/decisions/): a
    narrow hypernetwork that starts at the extractor's own scale, a higher learning rate than the
    paper's, kept stable by a tight clip, and ten times its weight decay.
    """

    shared_part: Literal["hypernetwork", "output-bias"] = "hypernetwork"
    """``output-bias``: only b is trained together and exchanged. A, a and W keep the values that
    everybody can draw, so θ = b + W f(v) with features of fixed directions."""


class HyperFLPlusPlan(HypernetworkPlan):
    """Hyperparameters of HyperFL++, whose output layer is of Kronecker products.

    The paper is not out; the published code has what the preset ``paper`` says.
    """

    hidden_size: int = Field(default=64, ge=1, le=4096)
    """h. A layer's weights, as a matrix, have at most rank h + 1."""
    feature_scale: float = Field(default=1.0, gt=0.0, le=10.0)
    """Factor on the hidden features f, whose values start near it."""


class BackbonePlan(BaseModel):
    """Which weights the frozen backbone has: part of every plan that trains on one."""

    model_config = _SETTINGS

    backbone_weights: Literal["hub", "random", "file"] = "hub"
    """Where a site finds them: timm's or torchvision's download, a fixed seed, a file of its own.

    A site may use a file in every case; the digest decides."""
    backbone_digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    """Of all the backbone's tensors, as ``hyperfl worker specify`` writes it."""


class HyperFLLPMPlan(HyperFLPlan, BackbonePlan):
    """Hyperparameters of HyperFL-LPM: HyperFL's, and which weights the frozen backbone has.

    Batch size, weight decay and, for a ResNet, learning rate default to the paper's; its 0.1 for a
    vision transformer is too much for adapters that start as the identity (docs/decisions/).
    """

    hidden_size: int = Field(default=8, ge=1, le=4096)
    head_learning_rate: float = Field(default=0.02, gt=0.0, le=100.0)
    learning_rate: float = Field(default=0.01, gt=0.0, le=100.0)
    batch_size: int = Field(default=16, ge=1, le=100_000)
    weight_decay: float = Field(default=5e-4, ge=0.0, lt=1.0)
    feature_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)


class ModelPlan(BaseModel):
    """Hyperparameters of SGD on a whole model, one local round.

    They are those of ``fedavg``, ``fedper``, ``fedbn`` and ``local``.
    """

    model_config = _SETTINGS

    epochs: int = Field(default=5, ge=1, le=1000)
    learning_rate: float = Field(default=0.02, gt=0.0, le=100.0)
    batch_size: int = Field(default=50, ge=1, le=100_000)
    momentum: float = Field(default=0.5, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=5e-4, ge=0.0, lt=1.0)
    feature_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the features before the head that a training step leaves out."""


class FedProxPlan(ModelPlan):
    """Hyperparameters of ``fedprox``: each step is pulled back to the round's weights."""

    proximal_weight: float = Field(default=0.01, ge=0.0, le=100.0)
    """μ of μ/2·‖w − w_t‖², which is added to the loss; 0 is FedAvg."""


class PFedHNPlan(ModelPlan):
    """Hyperparameters of ``pfedhn``: those of local training, and of the step that follows it."""

    embedding_size: int = Field(default=16, ge=1, le=4096)
    """Length of v."""
    hidden_size: int = Field(default=16, ge=1, le=4096)
    feature_scale: float = Field(default=1.0, gt=0.0, le=10.0)
    """Factor on the hidden features f."""
    output_spread: float = Field(default=0.1, ge=0.0, le=1.0)
    """Size of the part of θ that depends on v at the start, relative to the target layers'."""
    hypernetwork_learning_rate: float = Field(default=1.0, gt=0.0, le=1000.0)
    """η of φ ← φ + η·JᵀΔθ, and of the embedding's step alike; with 1, b moves as FedAvg's model."""
    clip_norm: float = Field(default=50.0, gt=0.0, allow_inf_nan=False)
    """Largest norm of JᵀΔθ, over φ and embedding together."""


class FedPACPlan(ModelPlan):
    """Hyperparameters of ``fedpac``: epochs of the head, then aligned epochs of the extractor."""

    head_epochs: int = Field(default=1, ge=0, le=1000)
    head_learning_rate: float = Field(default=0.1, gt=0.0, le=100.0)
    alignment: float = Field(default=1.0, ge=0.0, le=1000.0)
    """λ, the factor on the mean squared distance of features to their class's centroid."""
    max_clients: int = Field(default=32, ge=1, le=1024)
    """Clients that the table of heads has places for, counted from the federation's first
    invitation on."""


class DittoPlan(ModelPlan):
    """Hyperparameters of ``ditto``: FedAvg's round, then one of the client's own model."""

    personal_epochs: int = Field(default=5, ge=1, le=1000)
    proximal_weight: float = Field(default=0.1, ge=0.0, le=100.0)
    """λ of λ/2·‖v − w_t‖², which is added to the own model's loss; 0 is training alone."""


class BackboneModelPlan(ModelPlan, BackbonePlan):
    """Hyperparameters of SGD on a frozen backbone's adapters and head, or its head alone.

    Batch size and learning rate are HyperFL-LPM's.
    """

    learning_rate: float = Field(default=0.01, gt=0.0, le=100.0)
    batch_size: int = Field(default=16, ge=1, le=100_000)


class PrivateModelPlan(ModelPlan):
    """Hyperparameters of differentially private SGD (Abadi et al., CCS 2016).

    Noise is scaled so that after ``rounds`` rounds what a client of ``dp-fedavg`` has shared is
    (ε, δ)-private with respect to one of its training examples; of ``ppsgd`` and ``centaur`` only
    if the head did not depend on it. With ``sample_rate`` and ``noise_multiplier`` it is the
    same for every client, and an epoch has :func:`steps_per_epoch` steps; without them both follow
    from a client's number of examples n: batch_size / n, ⌈n / batch_size⌉ steps, and the least σ.
    """

    epsilon: float = Field(default=4.0, gt=0.0, le=1000.0)
    delta: float = Field(default=1e-5, gt=0.0, lt=1.0)
    clip_norm: float = Field(default=0.04, gt=0.0, allow_inf_nan=False)
    """Largest norm of one example's gradient."""
    rounds: int = Field(ge=1, le=1_000_000)
    """Rounds that the budget is spread over: those of the federation's round policy, and a few more
    where clients are to go on after rounds that failed, whose steps are spent."""
    sample_rate: float | None = Field(default=None, gt=0.0, le=1.0)
    """Probability of each example to be in a step's sample."""
    noise_multiplier: float | None = Field(default=None, gt=0.0)
    """σ: the noise's standard deviation over ``clip_norm``."""

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        if (self.sample_rate is None) != (self.noise_multiplier is None):
            raise ValueError("give both sample_rate and noise_multiplier, or neither")
        return self


class PPSGDPlan(PrivateModelPlan):
    """Hyperparameters of ``ppsgd``: a head step before each private step of the extractor."""

    head_learning_rate: float = Field(default=0.1, gt=0.0, le=100.0)


class CentaurPlan(PPSGDPlan):
    """Hyperparameters of ``centaur``: epochs of the head, then private epochs of the extractor."""

    head_epochs: int = Field(default=1, ge=0, le=1000)


def steps_per_epoch(sample_rate: float) -> int:
    """Steps in which an example is in one sample on average."""
    return round(1 / sample_rate)
