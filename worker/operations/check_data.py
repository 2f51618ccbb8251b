"""Looks at the data of every hosted client whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from itertools import combinations

from shared.federation.specification import FederationSpecification
from worker.data.classes import AgreedClasses
from worker.data.client_data import Examples
from worker.data.feature_survey import row_oddities
from worker.data.feature_table import look_at_feature_table
from worker.data.file_splits import FileSplits
from worker.data.loading import TRIED_OUT, DatasetCache, look_at_files
from worker.data.source import DataSource
from worker.data.survey import Survey, equal_across, oddities, summary, survey
from worker.errors import ConfigError, DataError
from worker.operations.check_rows import Row, Verdict, fault, ok, warning, worst
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
    by_source: dict[tuple[str, str], Survey] = {}
    datasets = DatasetCache()
    for client in config.clients:
        source = client.data
        if (files := look_at_files(source)) is not None:
            agreed = _agreed(source, files, specification)
            # Clients that divide one folder among them: it is read once.
            key = (source.of_whole().model_dump_json(), repr(agreed))
            if key not in by_source:
                by_source[key] = survey(files, agreed, source.dicom_window)
            surveys[client.name] = by_source[key]
            yield from _files(client.name, surveys[client.name])
            if any(split.faults for split in surveys[client.name].values()):
                continue
        elif source.dataset == "features":
            found = [*_table_rows(client, specification, datasets)]
            yield from found
            if worst(found) is Verdict.FAULT:
                continue
        yield from _part(config, client, specification, datasets, surveys)
    yield from _shared(config, surveys)


def _agreed(
    source: DataSource, files: FileSplits, specification: FederationSpecification | None
) -> AgreedClasses | None:
    if specification is None:
        return AgreedClasses(
            tuple(sorted({name for one in files.values() for name in one.classes}))
        )
    names = specification.training.class_names
    return None if names is None else AgreedClasses(names, source.classes)


def _files(client: str, found: Survey) -> Iterator[Row]:
    for name, split in found.items():
        yield ok(_CHECK, summary(name, split), client)
        for line in split.faults:
            yield fault(_CHECK, line, client)
    for line in oddities(found):
        yield warning(_CHECK, line, client)


def _table_rows(
    client: ClientConfig, specification: FederationSpecification | None, datasets: DatasetCache
) -> Iterator[Row]:
    """All that is wrong or odd with a table of features."""
    try:
        wanted = TRIED_OUT
        if specification is not None:
            training = specification.training
            wanted = datasets.wanted(
                client.data,
                training.image_shape,
                training.num_classes,
                training.class_names,
                training.features,
            )
    except DataError as error:
        yield fault(_CHECK, error, client.name)
        return
    found = look_at_feature_table(client.data, wanted)
    for line in found.faults:
        yield fault(_CHECK, line, client.name)
    if not found.faults:
        for line in row_oddities(
            found, () if wanted.features is None else wanted.features.features
        ):
            yield warning(_CHECK, line, client.name)


def _part(
    config: WorkerConfig,
    client: ClientConfig,
    specification: FederationSpecification | None,
    datasets: DatasetCache,
    surveyed: Collection[str],
) -> Iterator[Row]:
    """What the client has after its part was cut, where that is not all of its files."""
    source = client.data
    is_whole = source.partition == "none" and source.validation_fraction is None
    is_seen = is_whole and client.name in surveyed
    try:
        if specification is None:
            if is_seen:
                return
            data = datasets.try_out(source)
        else:
            training = specification.training
            data = datasets.client_data(
                source,
                training.image_shape,
                training.num_classes,
                training.class_names,
                training.features,
            )
            check_examples(config.policy, client.name, len(data.train))
    except (DataError, ConfigError) as error:
        yield fault(_CHECK, error, client.name)
        return
    if not is_seen:
        for name, examples in data.splits.items():
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
