"""What a federation is: the shared tensors, the training plan and the policy of its rounds.

Posted once as data and never changed. Coordinator and workers build version 0 from it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from shared.arrays import Array, digest_bytes
from shared.federation.aggregation_plan import AggregationPlan
from shared.federation.initialisation import TensorSpecification
from shared.federation.model_names import check_method, check_model
from shared.federation.plans import TrainingPlan
from shared.federation.privacy_rules import check_privacy
from shared.federation.protection_plan import ProtectionPlan
from shared.federation.protection_rules import check_protection
from shared.federation.sharing import check_shared_names
from shared.federation.table_rules import check_table
from shared.validation import MAX_COUNT, MAX_EXAMPLES

FEDERATION_NAME = r"^[a-z0-9][a-z0-9_.-]{0,62}$"
CLIENT_NAME = FEDERATION_NAME
EncodingName = Literal["dense", "factored"]
UpdateEncodingName = Literal["dense", "factored", "masked"]
WireDtype = Literal["float32", "float16", "bfloat16"]
_RECORDED = "recorded"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ParameterSpecification(_Model):
    """The tensors a federation shares, all float32, and the seed of their first values."""

    seed: int = Field(ge=0, lt=1 << 63)
    tensors: tuple[TensorSpecification, ...] = Field(max_length=10_000)

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for name, count in Counter(tensor.name for tensor in self.tensors).items():
            if count > 1:
                raise ValueError(f"tensor {name} is specified twice")
        return self

    @cached_property
    def by_name(self) -> dict[str, TensorSpecification]:
        """The tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @property
    def num_elements(self) -> int:
        """Values of all tensors together."""
        return sum(tensor.num_elements for tensor in self.tensors)

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors as float32."""
        return 4 * self.num_elements

    def initial_values(self) -> dict[str, Array]:
        """Weights version 0, float32 in the tensors' shapes: the same bits wherever it is built."""
        return {tensor.name: tensor.initial_value(self.seed) for tensor in self.tensors}

    def check_names(self, names: Iterable[str]) -> None:
        """Raises ValueError unless ``names`` are the shared tensors' names, each of them.

        This is the last gate before anything is serialised for the network: what the
        method keeps private (an embedding, say) has no place among the shared names.
        """
        given = set(names)
        if extra := sorted(given - self.by_name.keys()):
            raise ValueError(f"not shared by this federation: {', '.join(extra)}")
        if missing := sorted(self.by_name.keys() - given):
            raise ValueError(f"missing: {', '.join(missing)}")


class RoundPolicy(_Model):
    """How many rounds, who takes part in each, and how long anything may take."""

    rounds: int = Field(ge=1, le=1_000_000)
    cohort_fraction: float | None = Field(default=None, gt=0.0, le=1.0)
    cohort_size: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    minimum_updates: int = Field(default=1, ge=1, le=MAX_COUNT)
    """At its deadline a round commits if it has at least this many updates, or else fails."""
    deadline_seconds: float = Field(default=3600.0, gt=0.0, le=30 * 86400.0)
    grace_seconds: float | None = Field(default=None, ge=0.0, le=30 * 86400.0)
    """Once it has ``minimum_updates``, a round waits this long for more; None: to its deadline."""
    lease_seconds: float = Field(default=120.0, gt=0.0, le=86400.0)
    """Work is offered again after this long without a heartbeat."""
    max_failed_rounds: int = Field(default=3, ge=0, le=MAX_COUNT)
    """If more rounds than this fail in a row, the federation pauses and says why."""
    max_num_examples: int = Field(default=10_000_000, ge=1, le=MAX_EXAMPLES)
    """Largest number of examples a client may claim for one round."""
    max_examples_weight: int | None = Field(default=None, ge=1, le=MAX_EXAMPLES)
    """Cap on the examples that are a client's weight: their number is only its claim."""
    max_update_norm: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """Largest Frobenius norm of a client's whole change, over all shared tensors."""
    on_excess: Literal["clip", "reject"] = "clip"
    """What happens to a change beyond ``max_update_norm``: scaled down to it, or left out."""
    max_relative_norm: float | None = Field(default=10.0, gt=0.0, allow_inf_nan=False)
    """Largest norm of a client's change, in units of the weights' own norm or of √(shared values),
    whichever is larger. A larger change is refused when it comes, whatever ``on_excess`` says; null
    lets a client send anything finite."""
    evaluate_final: bool = True
    """End with a round in which every client evaluates the final weights without training."""

    @model_validator(mode="after")
    def _check_cohort(self) -> Self:
        if self.cohort_fraction is not None and self.cohort_size is not None:
            raise ValueError("give cohort_fraction or cohort_size, not both")
        if self.cohort_size is not None and self.minimum_updates > self.cohort_size:
            raise ValueError(
                f"minimum_updates {self.minimum_updates} exceeds cohort_size {self.cohort_size}"
            )
        return self

    def size_of_cohort(self, num_clients: int) -> int:
        """How many of ``num_clients`` enrolled clients take part in a round."""
        if self.cohort_size is not None:
            return min(self.cohort_size, num_clients)
        # As it was written: 0.07 of 100 is 7, which floating point makes a little more.
        share = math.ceil(Fraction(str(self.cohort_fraction or 1)) * num_clients)
        return min(num_clients, max(share, self.minimum_updates))

    def relative_limit(self, base_norm: float, num_elements: int) -> float:
        """The norm that ``max_relative_norm`` lets a change have; infinite if it is null.

        ``base_norm`` is ‖W‖ over all shared tensors, which have ``num_elements`` values.
        """
        if self.max_relative_norm is None:
            return math.inf
        # Weights that start as nothing may change too: by values of size 1.
        return self.max_relative_norm * max(base_norm, math.sqrt(num_elements))

    @property
    def clients_needed(self) -> int:
        """Enrolled clients without which no round opens."""
        return max(self.minimum_updates, self.cohort_size or 1)


class EncodingPlan(_Model):
    """How changes are written on the wire.

    In ``factored``, tolerance and rank bound what is sent at once; the rest follows later.
    """

    name: EncodingName = "factored"
    wire_dtype: WireDtype = "float16"
    tolerance: float = Field(default=0.01, ge=0.0, lt=1.0)
    """Relative Frobenius error of a matrix's change that an update may leave for later."""
    max_rank: int = Field(default=3, ge=1, le=4096)
    """Most components of a matrix's change in an update."""
    publish_tolerance: float = Field(default=0.01, ge=0.0, lt=1.0)
    """As ``tolerance``, for the delta that the coordinator publishes."""
    publish_max_rank: int = Field(default=64, ge=1, le=4096)


class FederationSpecification(_Model):
    """Everything that defines a federation, as an administrator posts it.

    Methods, models and shared tensors are checked by name, except by :meth:`of_record`.
    """

    name: str = Field(pattern=FEDERATION_NAME)
    parameters: ParameterSpecification
    training: TrainingPlan
    round_policy: RoundPolicy
    encoding: EncodingPlan = EncodingPlan()
    aggregation: AggregationPlan = AggregationPlan()
    protection: ProtectionPlan | None = None
    """None: the coordinator sees every client's update."""

    @classmethod
    def of_record(cls, document: Mapping[str, Any]) -> Self:
        """Reads a document that a coordinator has recorded.

        Names are not checked again: another version may have known others, and a federation that
        no worker takes must not keep the rest from being listed.

        Raises:
            pydantic.ValidationError: it is no specification.
        """
        return cls.model_validate(document, context={_RECORDED: True})

    @field_validator("training")
    @classmethod
    def _check_model_fits(cls, training: TrainingPlan, info: ValidationInfo) -> TrainingPlan:
        if not _is_recorded(info):
            check_method(training.method)
            check_model(training.method, training.model, training.image_shape)
        return training

    @model_validator(mode="after")
    def _check_shared_names(self, info: ValidationInfo) -> Self:
        if not _is_recorded(info):
            names, training = self.parameters.by_name.keys(), self.training
            shared_part = training.hyperparameters.get("shared_part")
            try:
                check_shared_names(training.method, training.model, names, shared_part)
            except ValueError as error:
                raise ValueError(f"parameters.tensors: {error}") from error
        return self

    @field_validator("encoding", mode="before")
    @classmethod
    def _accept_a_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_planned_rounds(self) -> Self:
        planned = self.training.planned_rounds
        if planned is not None and planned < self.round_policy.rounds:
            where = "hyperparameters" if self.training.privacy is None else "privacy"
            raise ValueError(
                f"training.{where}.rounds is {planned}, "
                f"fewer than round_policy.rounds {self.round_policy.rounds}"
            )
        return self

    @field_validator("aggregation", mode="before")
    @classmethod
    def _accept_a_rule(cls, value: Any) -> Any:
        return {"rule": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_protection(self) -> Self:
        policy, encoding = self.round_policy, self.encoding.name
        on_excess = None if policy.max_update_norm is None else policy.on_excess
        is_summed = self.protection is not None
        check_table(self.training, self.aggregation, encoding, on_excess, is_summed=is_summed)
        if self.protection is not None:
            check_protection(
                self.protection,
                self.training,
                self.aggregation,
                encoding=encoding,
                on_excess=on_excess,
                max_examples_weight=policy.max_examples_weight,
                minimum_updates=policy.minimum_updates,
            )
        return self

    @model_validator(mode="after")
    def _check_privacy(self) -> Self:
        privacy, policy = self.training.privacy, self.round_policy
        if privacy is not None:
            check_privacy(
                privacy,
                self.training,
                is_summed=self.protection is not None,
                cohort_size=policy.cohort_size,
                minimum_updates=policy.minimum_updates,
                max_update_norm=policy.max_update_norm,
            )
        return self

    @model_validator(mode="after")
    def _check_aggregation(self) -> Self:
        policy = self.round_policy
        self.aggregation.check_policy(policy.minimum_updates, policy.max_examples_weight)
        return self

    @property
    def document(self) -> dict[str, Any]:
        """All of it as JSON, defaults too: what is recorded when the federation is created."""
        return self.model_dump(mode="json")


def _is_recorded(info: ValidationInfo) -> bool:
    return bool(info.context and info.context.get(_RECORDED))


def document_digest(document: Mapping[str, Any]) -> str:
    """``sha256:<hex>`` of a specification's canonical JSON; binds private state to its federation.

    Of the document as it was recorded, never of what a model makes of it: a later version reads an
    earlier one's document with defaults that this had not.
    """
    return digest_bytes(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
