"""The classes that a federation agrees on: their names, in the order of the model's outputs."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

LONGEST_NAME = 200
_AGREED_NAMES = ("class_names", "features")
"""Members of a plan that it may lack."""


class Classes(BaseModel):
    """How many classes a model tells apart, and what they are called where that is agreed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_classes: int = Field(ge=2, le=100_000)
    class_names: tuple[str, ...] | None = None
    """Of the model's outputs in their order. None: sites do not compare them."""

    @field_validator("class_names")
    @classmethod
    def _in_normal_form(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        # So that a specification's digest does not depend on the keyboard that it was written on.
        return None if names is None else tuple(map(normal_form, names))

    @model_validator(mode="after")
    def _check_class_names(self) -> Self:
        if self.class_names is not None:
            check_class_names(self.class_names, self.num_classes)
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_agreed(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        # Where no names are agreed, the document and its digest are what they were before names.
        document: dict[str, Any] = handler(self)
        for name in _AGREED_NAMES:
            if getattr(self, name, None) is None:
                document.pop(name, None)
        return document


def normal_form(name: str) -> str:
    """The name as it is compared: in Unicode's NFC, as é is one character or e and an accent.

    Case counts: names that differ in it alone are two names.
    """
    return unicodedata.normalize("NFC", name)


def check_class_names(names: Sequence[str], num_classes: int) -> None:
    """Looks at names in normal form.

    Raises:
        ValueError: there are not ``num_classes`` of them, or one is empty, too long, unprintable,
            begins or ends with a space, or is given twice.
    """
    if len(names) != num_classes:
        raise ValueError(f"class_names: expected {num_classes} names, found {len(names)}")
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        if not name or len(name) > LONGEST_NAME:
            raise ValueError(f"class_names.{place} must have 1 to {LONGEST_NAME} characters")
        if not name.isprintable() or name != name.strip():
            raise ValueError(f"class_names.{place} must be printable, with no space at an end")
        if name in places:
            raise ValueError(f"class_names.{place} is {name!r}, as class_names.{places[name]} is")
        places[name] = place
