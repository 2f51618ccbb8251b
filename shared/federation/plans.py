"""What a training plan may say, for each method: hyperparameters with their meaning and bounds.

The coordinator checks a plan when a federation is created and hands it on unread; the worker's
method reads it. The methods it knows are in :data:`KNOWN_METHODS`; a method named by import path
(``package.module:name``) checks its own hyperparameters at the worker.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.federation.class_names import Classes
from shared.federation.features import MAX_FEATURES, Feature, check_features
from shared.federation.plan_errors import fill_in
from shared.federation.privacy_plan import PrivacyPlan
from shared.validation import MAX_EXAMPLES, InvalidInput, Size

_SETTINGS = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

HyperparameterValue = (
    bool
    | Annotated[int, Field(ge=-MAX_EXAMPLES, le=MAX_EXAMPLES)]
    | Annotated[float, Field(allow_inf_nan=False)]
    | str
)


class HyperFLPlan(BaseModel):
    """Hyperparameters of HyperFL (arXiv 2412.07187), one local round.

    The defaults were measured on Fashion-MNIST with the paper's partition (docs/decisions/): a
    narrow hypernetwork that starts at the extractor's own scale, a higher learning rate than the
    paper's, kept stable by a tight clip, and ten times its weight decay.
    """

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
    shared_part: Literal["hypernetwork", "output-bias"] = "hypernetwork"
    """``output-bias``: only b is trained together and exchanged. A, a and W keep the values that
    everybody can draw, so θ = b + W f(v) with features of fixed directions."""


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
    """Hyperparameters of SGD on a whole model, one local round: ``fedavg`` and ``local``."""

    model_config = _SETTINGS

    epochs: int = Field(default=5, ge=1, le=1000)
    learning_rate: float = Field(default=0.02, gt=0.0, le=100.0)
    batch_size: int = Field(default=50, ge=1, le=100_000)
    momentum: float = Field(default=0.5, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=5e-4, ge=0.0, lt=1.0)
    feature_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the features before the head that a training step leaves out."""


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


@dataclass(frozen=True)
class KnownMethod:
    """What a coordinator knows of a built-in method, without torch.

    Attributes:
        plan: its hyperparameters.
        shares: the parts of a client's model that it shares: ``hypernetwork``, ``extractor``,
            ``head``. All else is private, buffers always.
    """

    plan: type[BaseModel]
    shares: tuple[str, ...] = ()


KNOWN_METHODS: Mapping[str, KnownMethod] = MappingProxyType(
    {
        "hyperfl": KnownMethod(HyperFLPlan, ("hypernetwork",)),
        "hyperfl-lpm": KnownMethod(HyperFLLPMPlan, ("hypernetwork",)),
        "local": KnownMethod(ModelPlan),
        "fedavg": KnownMethod(ModelPlan, ("extractor", "head")),
        "dp-fedavg": KnownMethod(PrivateModelPlan, ("extractor", "head")),
        "centaur": KnownMethod(CentaurPlan, ("extractor",)),
        "ppsgd": KnownMethod(PPSGDPlan, ("extractor",)),
        "fedavg-adapter": KnownMethod(BackboneModelPlan, ("extractor", "head")),
        "local-adapter": KnownMethod(BackboneModelPlan),
        "fedavg-fixed": KnownMethod(BackboneModelPlan, ("head",)),
        "local-fixed": KnownMethod(BackboneModelPlan),
    }
)


def plan_of(method: str) -> type[BaseModel] | None:
    """The hyperparameters of a known method; None for one by import path, which has its own."""
    known = KNOWN_METHODS.get(method)
    return None if known is None else known.plan


def takes_backbone(method: str) -> bool:
    """Whether a known method trains on a frozen backbone, whose weights its plan pins."""
    return issubclass(plan_of(method) or BaseModel, BackbonePlan)


def steps_per_epoch(sample_rate: float) -> int:
    """Steps in which an example is in one sample on average."""
    return round(1 / sample_rate)


def spreads_privacy_budget(method: str) -> bool:
    """Whether a known method's noise is made for a number of rounds."""
    return issubclass(plan_of(method) or BaseModel, PrivateModelPlan)


PRESETS: dict[str, dict[str, dict[str, HyperparameterValue]]] = {
    **{method: {"default": {}} for method in KNOWN_METHODS},
    "hyperfl": {
        "default": {},
        "paper": {
            "embedding_size": 64,
            "hidden_size": 128,
            "feature_scale": 1.0,
            "learning_rate": 0.02,
            "weight_decay": 5e-4,
            "clip_norm": 50.0,
            "feature_dropout": 0.0,
        },
    },
}
"""Named hyperparameters by method. What a preset does not name keeps the plan's default; every
known method has the preset ``default``, which names nothing. A specification records all values."""


class UnknownPresetError(InvalidInput, ValueError):
    """No preset of a method has this name; names the closest."""


def find_preset(method: str, name: str) -> dict[str, HyperparameterValue]:
    """The hyperparameters of a method's preset.

    Raises:
        UnknownPresetError: the method has none of this name.
    """
    presets = PRESETS.get(method, {})
    if name not in presets:
        close = difflib.get_close_matches(name, presets, n=3, cutoff=0.0)
        known = f"the closest are {', '.join(close)}" if close else "the method has none"
        raise UnknownPresetError(f"unknown preset {name!r} of method {method!r}; {known}")
    return dict(presets[name])


class TrainingPlan(Classes):
    """What every worker of a federation trains: a method, a feature extractor, their settings."""

    method: str = Field(max_length=200)
    model: str = Field(max_length=200)
    image_shape: tuple[Size, ...] = Field(
        min_length=1, max_length=3, description="channels, height, width; or the length of a vector"
    )
    features: tuple[Feature, ...] | None = Field(
        default=None, min_length=1, max_length=MAX_FEATURES, description="of a vector, in order"
    )
    """None: the model takes images, or sites do not compare what their vectors are."""
    hyperparameters: dict[str, HyperparameterValue] = Field(default_factory=dict, max_length=100)
    privacy: PrivacyPlan | None = None
    """None: what is sent has no noise but the method's own."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_hyperparameters(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        plan = plan_of(str(data.get("method")))
        given = data.get("hyperparameters", {})
        if plan is None or not isinstance(given, dict):
            return data
        return data | {"hyperparameters": fill_in(plan, given)}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.image_shape) == 2:
            raise ValueError(
                f"image_shape must be [channels, height, width], or [length] of a vector, not "
                f"{list(self.image_shape)}"
            )
        if any(size < 1 for size in self.image_shape):
            raise ValueError(f"every size of image_shape {list(self.image_shape)} must be positive")
        if self.features is not None:
            check_features(self.features, self.image_shape)
        return self

    @property
    def planned_rounds(self) -> int | None:
        """Rounds that the noise is made for; None if it does not depend on them."""
        if self.privacy is not None:
            return self.privacy.rounds
        plan = plan_of(self.method)
        if plan is None or not issubclass(plan, PrivateModelPlan):
            return None
        return plan.model_validate(self.hyperparameters).rounds
