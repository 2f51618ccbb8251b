"""What is wrong with the hyperparameters of a plan, said so that a person can put it right."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

_PLACE = "hyperparameters"


def fill_in(plan: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """The plan's settings, those that are not given at their defaults.

    Raises:
        pydantic.ValidationError: they do not fit; each place starts with ``hyperparameters``.
    """
    try:
        return plan.model_validate(given).model_dump(exclude_none=True)
    except ValidationError as error:
        raise ValidationError.from_exception_data(
            error.title,
            [_explained(details, plan) for details in error.errors(include_url=False)],
        ) from None


def _explained(details: Mapping[str, Any], plan: type[BaseModel]) -> InitErrorDetails:
    place = details["loc"]
    kind: str | PydanticCustomError = details["type"]
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(str(place[-1]), plan.model_fields, n=3, cutoff=0.0)
        kind = PydanticCustomError(
            "unknown_hyperparameter",
            "unknown hyperparameter; the closest are {closest}",
            {"closest": ", ".join(close)},
        )
    elif kind == "missing" and place[-1] == "backbone_digest":
        kind = PydanticCustomError(
            "missing_digest",
            "Field required: `hyperfl worker specify` computes it from the backbone's weights",
        )
    return InitErrorDetails(
        type=kind, loc=(_PLACE, *place), input=details["input"], ctx=details.get("ctx", {})
    )
