"""The features that a federation's rows have: their names in order, and the categories of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from shared.federation.class_names import LONGEST_NAME, normal_form

MAX_FEATURES = 100_000
RESERVED_NAMES = ("label", "split", "group")
"""Columns of a site's table that are no features."""


class Feature(BaseModel):
    """One column of a site's table: numbers, or one of a few categories."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    categories: tuple[str, ...] | None = None
    """Of a column of text, in the order of the model's inputs. None: the column has numbers."""

    @field_validator("name")
    @classmethod
    def _name_in_normal_form(cls, name: str) -> str:
        return normal_form(name)

    @field_validator("categories")
    @classmethod
    def _categories_in_normal_form(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else tuple(map(normal_form, names))

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_names([self.name], "a feature's name")
        if self.name in RESERVED_NAMES:
            raise ValueError(f"{self.name!r} is the name of a table's own column, and no feature's")
        if self.categories is not None:
            if len(self.categories) < 2:
                raise ValueError(f"{self.name} must have two categories or more, or none")
            _check_names(self.categories, f"a category of {self.name}")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_no_categories(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = handler(self)
        if self.categories is None:
            document.pop("categories", None)
        return document

    @property
    def width(self) -> int:
        """Inputs of the model that it becomes: one of a number, one for each category."""
        return 1 if self.categories is None else len(self.categories)


def total_width(features: Iterable[Feature]) -> int:
    """Inputs of a model that takes these features."""
    return sum(feature.width for feature in features)


def check_features(features: Sequence[Feature], shape: Sequence[int]) -> None:
    """Raises ValueError unless the names differ and a model of this input shape takes them."""
    _check_names([feature.name for feature in features], "features")
    if list(shape) != [total_width(features)]:
        raise ValueError(
            f"image_shape must be [{total_width(features)}] for these features, not {list(shape)}"
        )


def _check_names(names: Sequence[str], what: str) -> None:
    seen = set()
    for name in names:
        if not name or len(name) > LONGEST_NAME:
            raise ValueError(f"{what} must have 1 to {LONGEST_NAME} characters")
        if not name.isprintable() or name != name.strip():
            raise ValueError(f"{what} must be printable, with no space at an end: {name!r}")
        if name in seen:
            raise ValueError(f"{what}: {name!r} is there twice")
        seen.add(name)
