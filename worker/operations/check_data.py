"""Looks at the data of every hosted client whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from shared.federation.specification import FederationSpecification
from worker.data.classes import AgreedClasses
from worker.data.client_data import Examples
from worker.data.image_folder import all_class_folders
from worker.data.loading import DatasetCache
from worker.data.source import DataSource
from worker.data.survey import Survey, equal_across, oddities, summary, survey
from worker.errors import ConfigError, DataError
from worker.operations.check_rows import Row, fault, ok, warning
from worker.settings import ClientConfig, WorkerConfig
from worker.site.policy import check_examples

_CHECK = "data"


def check_data(
    config: WorkerConfig, specification: FederationSpecification | None
) -> Iterator[Row]:
    """Rows about each client's data, and about images that clients share.

    ``specification`` is None where nobody knows the federation yet: then every folder is a class.
    """
    surveys: dict[str, Survey] = {}
    by_folder: dict[tuple[Path, str], Survey] = {}
    datasets = DatasetCache()
    for client in config.clients:
        source = client.data
        if source.dataset == "image-folder" and source.data_dir is not None:
            agreed = _agreed(client.data, source.data_dir, specification)
            # Clients that divide one folder among them: it is read once.
            key = (source.data_dir.resolve(), repr(agreed))
            if key not in by_folder:
                by_folder[key] = survey(source.data_dir, agreed)
            surveys[client.name] = by_folder[key]
            yield from _folder(client.name, surveys[client.name])
            if any(split.faults for split in surveys[client.name].values()):
                continue
        yield from _part(config, client, specification, datasets)
    yield from _shared(config, surveys)


def _agreed(
    source: DataSource, data_dir: Path, specification: FederationSpecification | None
) -> AgreedClasses | None:
    if specification is None:
        return AgreedClasses(all_class_folders(data_dir))
    names = specification.training.class_names
    return None if names is None else AgreedClasses(names, source.classes)


def _folder(client: str, found: Survey) -> Iterator[Row]:
    for name, split in found.items():
        yield ok(_CHECK, summary(name, split), client)
        for line in split.faults:
            yield fault(_CHECK, line, client)
    for line in oddities(found):
        yield warning(_CHECK, line, client)


def _part(
    config: WorkerConfig,
    client: ClientConfig,
    specification: FederationSpecification | None,
    datasets: DatasetCache,
) -> Iterator[Row]:
    """What the client has after its part was cut, where that is not the whole folder."""
    source = client.data
    try:
        if specification is None:
            if source.dataset == "image-folder" and source.partition == "none":
                return
            data = datasets.try_out(source)
        else:
            training = specification.training
            data = datasets.client_data(
                source, training.image_shape, training.num_classes, training.class_names
            )
            check_examples(config.policy, client.name, len(data.train))
    except (DataError, ConfigError) as error:
        yield fault(_CHECK, error, client.name)
        return
    if source.dataset != "image-folder" or source.partition != "none":
        for name, examples in (("train", data.train), ("test", data.test)):
            yield ok(_CHECK, f"{name}: {_counts(examples)}", client.name)


def _counts(examples: Examples) -> str:
    counts = Counter(examples.labels.tolist())
    said = [f"{examples.class_names[label]} {counts[label]}" for label in sorted(counts)]
    return f"{len(examples)} examples; {', '.join(said)}"


def _shared(config: WorkerConfig, surveys: dict[str, Survey]) -> Iterator[Row]:
    """Images that two clients have; not of those that divide a folder among them."""
    whole = [
        client.name
        for client in config.clients
        if client.name in surveys and client.data.partition == "none"
    ]
    for one, other in combinations(whole, 2):
        if (said := equal_across(surveys[one], surveys[other])) is not None:
            yield warning(_CHECK, f"{one} and {other} have the same {said}")
