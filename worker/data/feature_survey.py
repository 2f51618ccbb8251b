"""Says what is odd about a site's rows of features, and yet no error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from shared.federation.features import Feature
from worker.data.feature_table import FeatureTable
from worker.data.file_splits import TEST, TRAIN

_NAMED = 5


def row_oddities(found: FeatureTable, features: Sequence[Feature]) -> Iterator[str]:
    """One line each: values that are missing, columns that say nothing, rows in train and test.

    Args:
        found: a table without faults.
        features: of its values.
    """
    splits = np.array([row.split for row in found.rows])
    train, test = (found.values[splits == name] for name in (TRAIN, TEST))
    for feature, column, trained in zip(features, found.values.T, train.T, strict=True):
        missing = int(np.isnan(column).sum())
        values = trained[~np.isnan(trained)]
        if not values.size:
            yield f"{feature.name}: no value in train: it will say nothing"
            continue
        if missing:
            yield f"{feature.name}: {missing} of {len(column)} values are missing"
        if (values == values[0]).all():
            yield f"{feature.name}: one value alone in train: it will say nothing"
    labels = Counter(row.label for row in found.rows)
    if single := [label for label, count in labels.items() if count == 1]:
        yield f"classes with one row: {', '.join(single)}"
    trained_rows = {row.tobytes() for row in train}
    numbers = [row.number for row in found.rows if row.split == TEST]
    both = [at for at, row in zip(numbers, test, strict=True) if row.tobytes() in trained_rows]
    if both and features:
        rest = len(both) - _NAMED
        more = f" and {rest} more" if rest > 0 else ""
        named = ", ".join(map(str, both[:_NAMED]))
        yield f"{len(both)} rows of test equal one of train: row {named}{more}"
