"""What a model refuses, told in one line."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from shared.validation import first_fault


class _Layer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int


class _Network(BaseModel):
    layers: list[_Layer]
    name: str = ""

    @field_validator("name")
    @classmethod
    def _is_not_reserved(cls, name: str) -> str:
        if name == "reserved":
            raise ValueError("this name is taken")
        return name

    @model_validator(mode="after")
    def _has_layers(self) -> _Network:
        if not self.layers:
            raise ValueError("a network has layers")
        return self


@pytest.mark.parametrize(
    ("given", "where", "line"),
    [
        (
            {"layers": [{"width": 1}, {"width": "wide", "depth": 2}]},
            "layers.1.width",
            "layers.1.width: Input should be a valid integer, unable to parse string as an integer",
        ),
        (
            {"layers": [{"width": 1, "depth": 2}]},
            "layers.0.depth",
            "layers.0.depth: unknown key",
        ),
        ({"layers": [{"width": 1}], "name": "reserved"}, "name", "name: this name is taken"),
        ({"layers": []}, "", "a network has layers"),
    ],
)
def test_the_first_fault_says_where_and_what(given: dict[str, Any], where: str, line: str) -> None:
    with pytest.raises(ValidationError) as refused:
        _Network.model_validate(given)

    fault = first_fault(refused.value)

    assert fault.where == where
    assert str(fault) == line
