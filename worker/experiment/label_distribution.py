"""How many training examples of each class each client has, as the runs' partitions cut them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.data.loading import DatasetCache, natural_class_names, natural_image_shape
from worker.data.source import DataSource
from worker.errors import DataError, ExperimentError
from worker.experiment.drawing import new_figure, save
from worker.experiment.grid import Run

_MAX_NAMED_CLASSES = 16
_MAX_NAMED_CLIENTS = 40
_INCHES_PER_CLIENT, _MOST_INCHES = 0.12, 5.5


@dataclass(frozen=True, eq=False)
class LabelDistribution:
    """Training examples int64 (clients, classes) of one partition, and the classes' names."""

    dataset: str
    partition: str
    counts: NDArray[np.int64]
    class_names: tuple[str, ...]


def count_labels(
    runs: Iterable[Run], folders: Mapping[str, Path | None]
) -> list[LabelDistribution]:
    """One for each data set, number of clients and partition among ``runs``.

    Of partitions that depend on the seed, that of the first run.

    Args:
        runs: of the experiment.
        folders: of the data sets; those without an entry are left out.

    Raises:
        ExperimentError: the data cannot be read or cut.
    """
    cache = DatasetCache()
    found: dict[tuple[str, int, str], LabelDistribution] = {}
    for run in runs:
        key = (run.dataset, run.clients, run.partition)
        if key in found or run.dataset not in folders:
            continue
        try:
            found[key] = _count(run, folders[run.dataset], cache)
        except (DataError, OSError) as error:
            raise ExperimentError(f"{run.dataset}: {error}") from error
    return list(found.values())


def _count(run: Run, folder: Path | None, cache: DatasetCache) -> LabelDistribution:
    # The smallest images there are: only their labels are wanted.
    shape = natural_image_shape(run.dataset) or (1, 8, 8)
    num_classes = len(natural_class_names(run.dataset, folder))
    counts = np.zeros((run.clients, num_classes), np.int64)
    class_names: tuple[str, ...] = ()
    for index in range(run.clients):
        source = DataSource.model_validate(
            {
                "dataset": run.dataset,
                "data_dir": folder,
                "partition": run.partition,
                "num_clients": run.clients,
                "client_index": index,
                "seed": run.seed,
            }
        )
        train = cache.client_data(source, shape, num_classes).train
        counts[index] = np.bincount(train.labels.numpy(), minlength=num_classes)
        class_names = train.class_names
    return LabelDistribution(run.dataset, run.partition, counts, class_names)


def draw_label_distributions(
    distributions: list[LabelDistribution], folder: Path
) -> list[tuple[Path, str]]:
    """Writes one plot with a panel each into ``folder``; the file, and what it shows.

    Raises:
        ExperimentError: matplotlib is not installed.
    """
    if not distributions:
        return []
    most = max(len(one.counts) for one in distributions)
    figure, axes = new_figure(
        len(distributions), panel_height_inches=min(_MOST_INCHES, 2.2 + _INCHES_PER_CLIENT * most)
    )
    for axis, one in zip(axes, distributions, strict=True):
        num_clients, num_classes = one.counts.shape
        # A class that a client has nothing of is white, not the palest of the colours.
        image = axis.imshow(
            np.ma.masked_equal(one.counts, 0),
            aspect="auto",
            cmap="viridis_r",
            vmin=0,
            interpolation="nearest",
        )
        axis.set_title(
            f"{one.dataset}\n{num_clients} clients, partition {one.partition}", fontsize="medium"
        )
        axis.set_xlabel("class")
        axis.set_ylabel("client")
        if num_classes <= _MAX_NAMED_CLASSES:
            is_long = max(map(len, one.class_names)) > 2
            axis.set_xticks(
                range(num_classes),
                one.class_names,
                rotation=45 if is_long else 0,
                ha="right" if is_long else "center",
                fontsize="small",
            )
        if num_clients <= _MAX_NAMED_CLIENTS:
            axis.set_yticks(range(num_clients), map(str, range(num_clients)), fontsize="small")
        figure.colorbar(image, ax=axis, label="training examples")
    file, shown = folder / "labels.png", "Training examples of each class that each client has"
    figure.suptitle(shown, fontsize="medium")
    save(figure, file)
    return [(file, shown)]
