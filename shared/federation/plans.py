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
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, model_validator

from shared.federation.class_names import Classes
from shared.federation.features import MAX_FEATURES, Feature, check_features
from shared.federation.hyperparameters import (
    BackboneModelPlan,
    BackbonePlan,
    CentaurPlan,
    DittoPlan,
    FedPACPlan,
    FedProxPlan,
    HyperFLLPMPlan,
    HyperFLPlan,
    HyperFLPlusPlan,
    ModelPlan,
    PFedHNPlan,
    PPSGDPlan,
    PrivateModelPlan,
)
from shared.federation.plan_errors import fill_in
from shared.federation.privacy_plan import PrivacyPlan
from shared.validation import MAX_EXAMPLES, InvalidInput, Size

HyperparameterValue = (
    bool
    | Annotated[int, Field(ge=-MAX_EXAMPLES, le=MAX_EXAMPLES)]
    | Annotated[float, Field(allow_inf_nan=False)]
    | str
)


@dataclass(frozen=True)
class KnownMethod:
    """What a coordinator knows of a built-in method, without torch.

    Attributes:
        plan: its hyperparameters.
        shares: the parts of a client's model that it shares: ``hypernetwork``, ``extractor``,
            ``kronecker hypernetwork``, ``head``, ``table`` (a row for each client). All else is
            private, buffers always, and batch normalisation in ``fedbn``.
    """

    plan: type[BaseModel]
    shares: tuple[str, ...] = ()


KNOWN_METHODS: Mapping[str, KnownMethod] = MappingProxyType(
    {
        "hyperfl": KnownMethod(HyperFLPlan, ("hypernetwork",)),
        "hyperfl-lpm": KnownMethod(HyperFLLPMPlan, ("hypernetwork",)),
        "hyperfl-plus": KnownMethod(HyperFLPlusPlan, ("kronecker hypernetwork",)),
        "local": KnownMethod(ModelPlan),
        "fedavg": KnownMethod(ModelPlan, ("extractor", "head")),
        "fedprox": KnownMethod(FedProxPlan, ("extractor", "head")),
        "fedper": KnownMethod(ModelPlan, ("extractor",)),
        "fedbn": KnownMethod(ModelPlan, ("extractor", "head")),
        "ditto": KnownMethod(DittoPlan, ("extractor", "head")),
        "fedpac": KnownMethod(FedPACPlan, ("extractor", "table")),
        "pfedhn": KnownMethod(PFedHNPlan, ("hypernetwork",)),
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


def shares_table(method: str) -> bool:
    """Whether a known method shares a table with a row for each client."""
    return method in KNOWN_METHODS and "table" in KNOWN_METHODS[method].shares


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
        "aligned": {
            "training_head": "public",
            "shared_part": "output-bias",
            # Those of the paper; find_preset says those of the federation.
            "decay_rounds": 200,
            "head_learning_rate": 0.03,
            "weight_decay": 1e-3,
        },
    },
    "hyperfl-plus": {
        "default": {},
        "paper": {
            "embedding_size": 128,
            "learning_rate": 0.02,
            "weight_decay": 5e-4,
            "clip_norm": 50.0,
            "feature_dropout": 0.0,
        },
    },
    "fedprox": {
        "default": {},
        "paper": {
            "proximal_weight": 1.0,
            "epochs": 20,
            "learning_rate": 0.03,
            "batch_size": 10,
            "momentum": 0.0,
            "weight_decay": 0.0,
        },
    },
    "fedbn": {
        "default": {},
        "paper": {
            "epochs": 1,
            "learning_rate": 0.01,
            "batch_size": 32,
            "momentum": 0.0,
            "weight_decay": 0.0,
        },
    },
    "fedpac": {
        "default": {},
        "paper": {
            "alignment": 1.0,
            "head_epochs": 1,
            "head_learning_rate": 0.1,
            "epochs": 5,
            "batch_size": 50,
            "learning_rate": 0.01,
            "momentum": 0.5,
            "weight_decay": 5e-4,
        },
    },
    "pfedhn": {
        "default": {},
        "paper": {
            "embedding_size": 6,
            "hidden_size": 100,
            "epochs": 5,
            "batch_size": 64,
            "learning_rate": 5e-3,
            "momentum": 0.9,
            "weight_decay": 5e-5,
        },
    },
}
"""Named hyperparameters by method; docs/methods.md says where those of papers are from.

What a preset does not name keeps the plan's default; every known method has the preset ``default``,
which names nothing. A specification records all values."""


class UnknownPresetError(InvalidInput, ValueError):
    """No preset of a method has this name; names the closest."""


def find_preset(method: str, name: str, rounds: int) -> dict[str, HyperparameterValue]:
    """The hyperparameters of a method's preset, for a federation of ``rounds``.

    A learning rate that a preset lets fall, falls until the last of them.

    Raises:
        UnknownPresetError: the method has none of this name.
    """
    presets = PRESETS.get(method, {})
    if name not in presets:
        close = difflib.get_close_matches(name, presets, n=3, cutoff=0.0)
        known = f"the closest are {', '.join(close)}" if close else "the method has none"
        raise UnknownPresetError(f"unknown preset {name!r} of method {method!r}; {known}")
    chosen = dict(presets[name])
    return chosen | {"decay_rounds": rounds} if "decay_rounds" in chosen else chosen


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
