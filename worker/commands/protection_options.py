"""Options of ``hyperfl worker specify`` and ``hyperfl demo``: what protects clients' updates."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import ValidationError

from shared.federation.protection_plan import ProtectionPlan
from shared.federation.specification import EncodingPlan
from shared.validation import first_fault
from worker.errors import ConfigError

ProtectionOption = Annotated[
    str,
    typer.Option(
        help="none; or secure-sum, where the coordinator learns the sum of a cohort's updates "
        "and no single one."
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
EncodingOption = Annotated[
    str | None,
    typer.Option(
        help="Encoding of updates: factored or dense. The default is factored; with secure-sum, "
        "dense."
    ),
]


def protection_plan(
    protection: str, sum_bits: int | None, sum_bound: float | None, allow_separable: bool
) -> ProtectionPlan | None:
    """The plan that the options say; None for no protection.

    Raises:
        ConfigError: there is no such protection, or none that an option is for, or a value is out
            of its bounds.
    """
    given = {"bits": sum_bits, "bound": sum_bound, "allow_separable": allow_separable or None}
    settings = {name: value for name, value in given.items() if value is not None}
    if protection == "secure-sum":
        try:
            return ProtectionPlan.model_validate(settings)
        except ValidationError as error:
            raise ConfigError(f"protection.{first_fault(error)}") from error
    if protection != "none":
        raise ConfigError(f"--protection must be none or secure-sum, not {protection}")
    options = {"bits": "sum-bits", "bound": "sum-bound", "allow_separable": "allow-separable"}
    for name in settings:
        raise ConfigError(f"--{options[name]} needs --protection secure-sum")
    return None


def encoding_plan(encoding: str | None, protection: ProtectionPlan | None) -> EncodingPlan:
    """The encoding that the option says, or else that fits the protection.

    Raises:
        pydantic.ValidationError: there is no such encoding.
    """
    default = "factored" if protection is None else "dense"
    return EncodingPlan.model_validate({"name": encoding or default})
