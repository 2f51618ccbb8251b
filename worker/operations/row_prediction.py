"""What a client's own model says about rows of features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from shared.federation.plans import TrainingPlan
from worker.data.agreed_features import AgreedFeatures
from worker.data.arrays_file import SUFFIXES, read_rows
from worker.data.feature_table import read_unlabelled
from worker.data.file_splits import raise_faults
from worker.data.row_scaling import RowScaling
from worker.data.source import DataSource
from worker.data.wanted import Wanted
from worker.errors import DataError


def wanted_rows(training: TrainingPlan, source: DataSource) -> Wanted:
    """What a client's rows are read for, whatever their labels."""
    if training.features is None:
        features = AgreedFeatures.unnamed(training.image_shape[0])
    else:
        features = AgreedFeatures(training.features, source.features)
    return Wanted(training.image_shape, features=features)


def read_inputs(
    files: Sequence[Path], wanted: Wanted, source: DataSource, scaling: RowScaling
) -> tuple[torch.Tensor, list[tuple[Path, int]]]:
    """A model's inputs (N, W), and file and place of each row: of a CSV its line.

    Args:
        files: CSV, Parquet, ``.npz`` or safetensors.
        wanted: of :func:`wanted_rows`.
        source: of the client's own data, whose columns have the same names.
        scaling: of the client.

    Raises:
        DataError: some files cannot be read; names them, up to a bound.
    """
    parts, places, faults = [], [], []
    for file in files:
        try:
            rows, numbers = _read(file, wanted, source)
        except DataError as error:
            faults.append(str(error))
            continue
        parts.append(scaling.apply(rows))
        places += [(file, number) for number in numbers]
    raise_faults(Path(), faults)
    return torch.cat(parts), places


def _read(file: Path, wanted: Wanted, source: DataSource) -> tuple[torch.Tensor, Iterable[int]]:
    if file.suffix not in SUFFIXES:
        return read_unlabelled(file, wanted, source)
    rows = read_rows(file, wanted)
    return rows, range(len(rows))
