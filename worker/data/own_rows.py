"""Rows of features as arrays: checked against what the federation agreed on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from worker.data.agreed_features import AgreedFeatures
from worker.data.plain_arrays import plain_array
from worker.data.wanted import Wanted
from worker.errors import DataError

LARGEST_NUMBER = 1e30
"""Of float32's 3.4e38, so that differences are finite too."""


def features_of(wanted: Wanted, count: int) -> AgreedFeatures:
    """What is wanted of rows; where no federation is known, ``count`` numbers."""
    if wanted.features is not None:
        return wanted.features
    return AgreedFeatures.unnamed(wanted.image_shape[0] if wanted.takes_rows else count)


def rows_of(
    values: object, where: Path | str, wanted: Wanted, names: tuple[str, ...] | None = None
) -> torch.Tensor:
    """Rows as :mod:`worker.data.row_scaling` takes them, float32 (N, F).

    Args:
        values: a tensor or an array (N, F) of numbers: of a feature with categories the category's
            place among them, from 0. Not a number is a missing value.
        where: they were found, for messages.
        wanted: the federation's features.
        names: the site's, of the columns; None where these are in the federation's order.

    Raises:
        DataError: there is none, or type, shape, names or values are others.
    """
    array = plain_array(values, f"{where}: features")
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise DataError(
            f"{where}: expected features of shape (N, F), numbers, found {array.dtype} of shape "
            f"{list(array.shape)}"
        )
    agreed = features_of(wanted, array.shape[1])
    if names is not None and len(names) != array.shape[1]:
        raise DataError(
            f"{where}: expected {array.shape[1]} feature_names, one for each column, "
            f"found {len(names)}"
        )
    if names is not None and agreed.are_named:
        places = agreed.places_of(names, where)
        array = array[:, [places[name] for name in agreed.names]]
    if array.shape[1] != len(agreed.features):
        raise DataError(
            f"{where}: expected {len(agreed.features)} features, as the federation has, "
            f"found {array.shape[1]}"
        )
    if array.size == 0:
        raise DataError(f"{where}: expected rows, found none: their shape is {list(array.shape)}")
    for feature, column in zip(agreed.features, array.T, strict=True):
        present = column[~np.isnan(column)]
        if feature.categories is None:
            wrong = present[~(np.abs(present) <= LARGEST_NUMBER)]
            expected = f"numbers of at most {LARGEST_NUMBER:g}"
        else:
            places_found = np.arange(len(feature.categories))
            wrong = present[~np.isin(present, places_found)]
            expected = f"the places of its categories, 0 to {len(feature.categories) - 1}"
        if wrong.size:
            raise DataError(
                f"{where}: expected of feature {feature.name} {expected}, found {wrong[0]:g}"
            )
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
