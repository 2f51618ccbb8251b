"""Seeded initial values, the same bits on every machine, so that nobody downloads version 0.

numpy promises a stable stream for its bit generators, not for its distributions; so the uniform
numbers are made here from Philox's raw output. PROTOCOL.md, section "Version 0", is normative.
"""

from __future__ import annotations

import hashlib
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.validation import MAX_COUNT, Size

MAX_TENSOR_ELEMENTS = 1 << 31
_BLOCK_ELEMENTS = 1 << 18
"""Drawn at a time; even, since a draw makes two."""
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class RowRange(BaseModel):
    """Consecutive rows (indices of the first axis), drawn from U(centre - bound, centre + bound).

    With ``bound`` 0 every value is ``centre``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(gt=0, le=MAX_COUNT)
    centre: float = Field(default=0.0, allow_inf_nan=False)
    bound: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_float32(self) -> Self:
        if abs(self.centre) + self.bound > _FLOAT32_MAX:
            raise ValueError(f"{self.centre} ± {self.bound} exceeds float32")
        return self


class TensorSpecification(BaseModel):
    """One shared tensor, float32: its name, its shape and how its values start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*$", max_length=200)
    shape: tuple[Size, ...] = Field(min_length=1, max_length=8)
    initialisation: tuple[RowRange, ...] = Field(min_length=1, max_length=10_000)

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        if any(size < 1 for size in self.shape):
            raise ValueError(
                f"{self.name}: every size of shape {list(self.shape)} must be positive"
            )
        if self.num_elements > MAX_TENSOR_ELEMENTS:
            raise ValueError(f"{self.name}: more than {MAX_TENSOR_ELEMENTS} elements")
        rows = sum(part.rows for part in self.initialisation)
        if rows != self.shape[0]:
            raise ValueError(
                f"{self.name}: the initialisation describes {rows} rows of {self.shape[0]}"
            )
        return self

    @property
    def num_elements(self) -> int:
        """Product of the shape."""
        product = 1
        for size in self.shape:
            product *= size
        return product

    def initial_value(self, seed: int) -> npt.NDArray[np.float32]:
        """The tensor's float32 values in version 0 of a federation with this seed."""
        unit = _uniform(seed, self.name, self.num_elements).reshape(self.shape)
        start = 0
        for part in self.initialisation:
            rows = unit[start : start + part.rows]
            rows *= np.float32(part.bound)
            rows += np.float32(part.centre)
            start += part.rows
        return unit


def _uniform(seed: int, name: str, count: int) -> npt.NDArray[np.float32]:
    """``count`` float32 numbers in [-1, 1), a stream of their own for each seed and name."""
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16]
    generator = np.random.Philox(key=np.frombuffer(key, dtype="<u8").astype(np.uint64))
    numbers = np.empty(count, np.float32)
    for start in range(0, count, _BLOCK_ELEMENTS):
        block = numbers[start : start + _BLOCK_ELEMENTS]
        words = generator.random_raw((len(block) + 1) // 2).astype("<u8").view("<u4")[: len(block)]
        block[:] = words >> np.uint32(8)
        block *= np.float32(2.0**-23)
        block -= np.float32(1.0)
    return numbers
