"""What a site takes part in, whatever a federation asks: the ``[policy]`` table of worker.toml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.federation.protection_plan import LARGEST_COHORT
from shared.rest.schema import Digest, MetricName
from shared.validation import MAX_COUNT, MAX_EXAMPLES

NamePattern = Annotated[str, Field(min_length=1, max_length=200)]
"""A name, or one with ``*`` for any rest."""


class SitePolicy(BaseModel):
    """What this site takes part in.

    The defaults refuse nothing that a federation without protection may ask. They ask for peers
    that people compared, in every secure sum.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    methods: tuple[NamePattern, ...] = Field(default=(), examples=[["hyperfl", "dp-*"]])
    """Methods that this site trains by; `*` stands for any rest of a name. Empty: every built-in
    one, and those that `allowed_imports` names."""
    models: tuple[NamePattern, ...] = Field(default=(), examples=[["cnn-*"]])
    """Models that this site trains, as `methods`."""
    require_protection: Literal["none", "secure-sum"] = "none"
    """`secure-sum`: no federation whose coordinator sees single updates. `none` lets it see them,
    and compute from them what docs/threat-model.md says."""
    minimum_cohort: int = Field(default=1, ge=1, le=MAX_COUNT)
    """Fewest updates that may be combined into new weights. Of one update alone, the next weights
    show it to all sites."""
    minimum_trusted_peers: int = Field(default=2, ge=0, le=LARGEST_COHORT)
    """Fewest other clients, in every secure sum, whose fingerprints people of this site compared.
    Of all others the coordinator could be the author."""
    maximum_cohorts: int | None = Field(default=None, ge=1, le=MAX_COUNT, examples=[1])
    """Most different cohorts of secure sums that a client trains with. Of sums with other members
    each time, its own part can be solved for. Those from before this line are not counted. Unset:
    any number."""
    minimum_examples: int = Field(default=1, ge=1, le=MAX_EXAMPLES)
    """Fewest training examples of each client here. Of five images, pictures were reconstructed
    from updates; of 600 in whole rounds, none."""
    minimum_steps: int = Field(default=1, ge=1, le=MAX_COUNT)
    """Fewest steps of training that an update is the sum of. One step on few images shows them."""
    maximum_epsilon: float | None = Field(default=None, gt=0.0, examples=[8.0])
    """Largest ε of differential privacy; whatever has no noise is refused. What ε covers is in
    docs/methods.md. Unset: no noise is asked for."""
    rounds_per_day: int | None = Field(default=None, ge=1, le=MAX_COUNT, examples=[24])
    """Most rounds that a client trains in 24 hours. Unset: any number."""
    rounds_in_all: int | None = Field(default=None, ge=1, le=MAX_COUNT, examples=[100])
    """Most rounds that a client trains in all, failed ones too. Unset: any number."""
    maximum_accuracy_drop: float | None = Field(default=None, gt=0.0, lt=1.0, examples=[0.25])
    """How far a client's accuracy on its test split, before it trains in a round, may lie below the
    best of its rounds so far. Weights that a coordinator chose to have images of a sum broke the
    model in the audit: 0.80 became 0.33. Others may not. Unset: as far as it likes."""
    metrics: Literal["all", "none"] | tuple[MetricName, ...] = Field(
        default=(
            "accuracy",
            "accuracy_after",
            "accuracy_before",
            "epsilon_spent",
            "loss",
            "loss_after",
            "loss_before",
            "seconds_training",
        ),
        examples=[["accuracy", "loss"]],
    )
    """Which of a method's numbers leave with an update: `all`, `none`, or a list of names. The
    number of examples always does: it is the update's weight."""
    metric_digits: int | None = Field(default=None, ge=0, le=15, examples=[3])
    """Digits after the point that they are rounded to. Unset: they are sent as they are."""
    own_metrics: bool = False
    """Whether a client's accuracies and losses leave by themselves too, where updates are summed.
    Otherwise only the cohort's mean is shown, which tells of a client what the others do not."""
    decline_text: bool = True
    """Whether a client that declines a round says why in a line of text. Otherwise it says only
    which kind of reason it is; the worker's log has the rest."""
    max_model_parameters: int | None = Field(default=None, ge=1, examples=[10_000_000])
    """Most shared parameters, of which larger models may be generated. Unset: as many as memory
    allows."""
    approved_specifications: tuple[Digest, ...] = Field(
        default=(), examples=[["sha256:" + 64 * "0"]]
    )
    """Digests of the only specifications that this site takes part in, as `worker policy explain`
    prints them. Empty: any."""
