"""Arrays of whatever library, as NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from worker.errors import DataError


def plain_array(values: Any, where: str) -> npt.NDArray[Any]:
    """The values as an array of numbers or text, whatever library they are from.

    Raises:
        DataError: they are something else.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{where}: expected an array, cannot make one: {reason}") from error
    if array.dtype.kind not in "iufU":
        raise DataError(f"{where}: expected an array of numbers, found dtype {array.dtype}")
    return array
