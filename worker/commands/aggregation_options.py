"""Options of ``hyperfl worker specify`` and ``hyperfl demo``: the method, and how to aggregate."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import typer

from shared.federation.aggregation_plan import AggregationPlan, AggregationRule
from shared.federation.plans import KNOWN_METHODS
from worker.errors import ConfigError

MethodOption = Annotated[
    str, typer.Option(help=f"{', '.join(KNOWN_METHODS)} or package.module:name.")
]
RuleOption = Annotated[
    str,
    typer.Option(
        "--aggregation",
        help="Rule that combines updates: mean; or median, trimmed-mean or multi-krum, which "
        "outvote a few hostile clients.",
    ),
]
TrimFractionOption = Annotated[
    float | None,
    typer.Option(help="For trimmed-mean: share of values to leave out at each end, below 0.5."),
]
HostileClientsOption = Annotated[
    int | None,
    typer.Option(help="For multi-krum: the most hostile clients that a round may have."),
]
MaxUpdateNormOption = Annotated[
    float | None, typer.Option(help="Largest norm of a client's change to the shared tensors.")
]
OnExcessOption = Annotated[
    str | None,
    typer.Option(help="What happens to a larger change: clip (default) or reject."),
]
MaxExamplesWeightOption = Annotated[
    int | None,
    typer.Option(help="Cap on the number of examples that is a client's weight in the mean."),
]


def aggregation_plan(
    rule: str, trim_fraction: float | None, hostile_clients: int | None
) -> AggregationPlan:
    """The plan that the options say.

    Raises:
        ConfigError: there is no such rule.
        pydantic.ValidationError: a rule lacks its setting, or has one that is not its own.
    """
    rules = get_args(AggregationRule)
    if rule not in rules:
        raise ConfigError(f"--aggregation must be one of {', '.join(rules)}, not {rule}")
    return AggregationPlan.model_validate(
        {"rule": rule, "trim_fraction": trim_fraction, "hostile_clients": hostile_clients}
    )


def policy_caps(
    max_update_norm: float | None, on_excess: str | None, max_examples_weight: int | None
) -> dict[str, Any]:
    """The members of a round policy that the options say.

    Raises:
        ConfigError: there is something to do about a norm that nothing limits.
    """
    if on_excess is not None and max_update_norm is None:
        raise ConfigError(f"--on-excess {on_excess} needs --max-update-norm")
    return {
        "max_update_norm": max_update_norm,
        "on_excess": on_excess or "clip",
        "max_examples_weight": max_examples_weight,
    }
