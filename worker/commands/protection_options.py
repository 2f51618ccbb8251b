"""Options of ``hyperfl worker specify`` and ``hyperfl demo``: what protects clients' updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args

import typer
from pydantic import ValidationError

from shared.federation.protection_kinds import ProtectionKind, default_encoding
from shared.federation.protection_plan import ProtectionPlan
from shared.federation.specification import EncodingPlan
from shared.validation import first_fault
from worker.errors import ConfigError
from worker.operations.key_values import parse_settings

ProtectionOption = Annotated[
    str,
    typer.Option(
        help="none; secure-sum, where the coordinator learns the sum of a cohort's updates and no "
        "single one; dp, where every update has noise; or secure-sum+dp, where the sum has."
    ),
]
SumBitsOption = Annotated[
    int | None, typer.Option(help="For secure-sum: bits of each value on the wire, 8 to 32.")
]
SumBoundOption = Annotated[
    float | None,
    typer.Option(help="For secure-sum: largest change of a value in a round; the rest follows."),
]
AllowSeparableOption = Annotated[
    bool,
    typer.Option(
        "--allow-separable",
        help="For secure-sum: sum also what can be taken apart into each client's part again.",
    ),
]
EpsilonOption = Annotated[
    float | None, typer.Option(help="For dp: ε of all rounds together, 8 by default.")
]
DeltaOption = Annotated[
    float | None, typer.Option(help="For dp: δ of all rounds together, 1e-5 by default.")
]
PrivacyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--privacy",
        help="For dp: KEY=VALUE sets unit (example or client), clip_norm, sample_rate, "
        "learning_rate, rounds, noise_clients or noise_multiplier; repeatable.",
    ),
]
EncodingOption = Annotated[
    str | None,
    typer.Option(
        help="Encoding of updates: factored or dense. The default is factored; with a protection, "
        "or for fedpac and hyperfl-plus, dense."
    ),
]
_KINDS = get_args(ProtectionKind)
_NOISY_SUM = {"bits": 28}
"""Values and noise are rounded to integers, which must be fine: so it costs a few percent of noise
in the last rounds, and less before."""


@dataclass(frozen=True)
class Protection:
    """What the options say.

    Attributes:
        summed: of the secure sum; None for none.
        privacy: settings of the privacy plan, without its noise; None for no privacy.
    """

    summed: ProtectionPlan | None = None
    privacy: dict[str, Any] | None = field(default=None)


def protection_of(
    kind: str,
    *,
    sum_bits: int | None,
    sum_bound: float | None,
    allow_separable: bool,
    epsilon: float | None,
    delta: float | None,
    privacy: Sequence[str] | None,
) -> Protection:
    """The protection that the options say.

    Raises:
        ConfigError: there is no such protection, or none that an option is for, or a value is out
            of its bounds.
    """
    if kind not in _KINDS:
        raise ConfigError(f"--protection must be one of {', '.join(_KINDS)}, not {kind}")
    summed, noised = "secure-sum" in kind, kind.endswith("dp")
    of_sum = {
        "--sum-bits": sum_bits,
        "--sum-bound": sum_bound,
        "--allow-separable": allow_separable or None,
    }
    of_noise = {"--epsilon": epsilon, "--delta": delta, "--privacy": privacy or None}
    for options, is_wanted, needed in (
        (of_sum, summed, "secure-sum"),
        (of_noise, noised, "dp or secure-sum+dp"),
    ):
        for option, value in options.items():
            if value is not None and not is_wanted:
                raise ConfigError(f"{option} needs --protection {needed}")
    return Protection(
        _sum_plan(sum_bits, sum_bound, allow_separable, noised) if summed else None,
        _privacy_settings(epsilon, delta, privacy or ()) if noised else None,
    )


def _sum_plan(
    bits: int | None, bound: float | None, allow_separable: bool, noised: bool
) -> ProtectionPlan:
    given = {"bits": bits, "bound": bound, "allow_separable": allow_separable or None}
    settings: dict[str, Any] = dict(_NOISY_SUM) if noised else {}
    settings |= {name: value for name, value in given.items() if value is not None}
    try:
        return ProtectionPlan.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"protection.{first_fault(error)}") from error


def _privacy_settings(
    epsilon: float | None, delta: float | None, settings: Sequence[str]
) -> dict[str, Any]:
    given = {"epsilon": epsilon, "delta": delta}
    named = {name: value for name, value in given.items() if value is not None}
    return named | parse_settings(settings, option="--privacy")


def encoding_plan(encoding: str | None, kind: str, method: str) -> EncodingPlan:
    """The encoding that the option says, or else that of the kind of protection and the method.

    Raises:
        pydantic.ValidationError: there is no such encoding.
    """
    return EncodingPlan.model_validate({"name": encoding or default_encoding(kind, method)})
