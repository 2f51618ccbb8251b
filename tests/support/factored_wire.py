"""Changes of two tensors, and their wire tensors in the factored encoding."""

from __future__ import annotations

import numpy as np

from shared.arrays import Array
from shared.federation.specification import ParameterSpecification
from shared.tensors import codec
from shared.tensors.factored_encoding import check_factored_block, check_factored_header

ROWS, COLUMNS = 20, 8
MATRIX, VECTOR = "output.weight", "output.bias"


def parameters(rows: int = ROWS, columns: int = COLUMNS) -> ParameterSpecification:
    return ParameterSpecification.model_validate(
        {
            "seed": 1,
            "tensors": [
                {"name": MATRIX, "shape": [rows, columns], "initialisation": [{"rows": rows}]},
                {"name": VECTOR, "shape": [3], "initialisation": [{"rows": 3}]},
            ],
        }
    )


def whole_vector() -> dict[str, Array]:
    return {VECTOR: np.zeros(3, np.float16), VECTOR + "/scale": np.array(1.0, np.float32)}


def check(wire: dict[str, Array], specification: ParameterSpecification | None = None) -> None:
    """The two checks of a receiver, on the bytes that a sender would send."""
    reader = codec.StreamReader()
    blocks = list(reader.feed(codec.encode(wire)))
    check_factored_header(reader.finish(), specification or parameters())
    for block in blocks:
        check_factored_block(block)
