"""The paper's tables of attacks, measured here: one attack, several methods and data sets."""

from __future__ import annotations

import json
import statistics
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.federation.plans import HyperparameterValue
from shared.federation.specification import RoundPolicy
from shared.validation import first_fault
from worker.attacks import (
    gradient_inversion,
    hypernetwork_inversion,
    reduced_inversion,
    tailored_inversion,
)
from worker.attacks.extractor_change import ExtractorChange, network_layout, read_extractor_change
from worker.attacks.measures import psnr, ssim
from worker.attacks.observation import Observation
from worker.audit.demo_federation import demo_subject
from worker.audit.replay import Replay
from worker.audit.subject import Subject, images_of
from worker.data.source import DatasetName
from worker.demo.defaults import default_model
from worker.errors import AuditError, WorkerError
from worker.files import write_atomically
from worker.methods.hyperfl import HyperFL
from worker.methods.interface import SiteResources
from worker.operations.specification import specify
from worker.operations.specification_request import SpecificationRequest
from worker.site_policy import SitePolicy

Json = dict[str, Any]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(_Model):
    """One cell of the paper: PSNR in dB and SSIM."""

    method: str
    dataset: str
    psnr: float
    ssim: float


class TableFile(_Model):
    """A table's TOML file."""

    title: str
    attack: Literal["ig", "rog"]
    methods: tuple[str, ...] = Field(min_length=1)
    datasets: tuple[DatasetName, ...] = Field(min_length=1)
    clients: int = Field(default=20, ge=1)
    images: int = Field(ge=1)
    """Attacked one by one: each is a client's only image in one step."""
    iterations: int = Field(ge=1)
    seed: int = Field(default=2022, ge=0)
    settings: dict[str, dict[str, HyperparameterValue]] = Field(default_factory=dict)
    """Hyperparameters by method, over those that make a round one step on one image."""
    paper: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line to measure."""

    dataset: str
    method: str
    attack: str

    @property
    def key(self) -> str:
        """The row, as it is kept."""
        return f"{self.dataset} {self.method} {self.attack}"


def load_table(file: Path) -> TableFile:
    """Reads a table's file. Raises AuditError if it is missing or wrong; says where."""
    try:
        return TableFile.model_validate(tomllib.loads(file.read_text()))
    except OSError as error:
        raise AuditError(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AuditError(f"{file} is not TOML: {error}") from error
    except ValidationError as error:
        raise AuditError(f"{file}: {first_fault(error)}") from error


def rows_of(table: TableFile, datasets: set[str]) -> Iterator[Row]:
    """The rows of the data sets that are there; HyperFL is attacked in the stronger ways too."""
    for dataset in table.datasets:
        for method in table.methods if dataset in datasets else ():
            yield Row(dataset, method, table.attack)
            if method == "hyperfl":
                yield Row(dataset, method, "tailored")
                yield Row(dataset, method, "closed form")


def measure_table(
    table: TableFile, folder: Path, kept: Path, on_row: Callable[[Row], None]
) -> list[Json]:
    """Measures the rows that ``kept`` has not; each is kept as soon as it is made.

    Args:
        table: what to measure.
        folder: holds each data set in a folder of its name.
        kept: JSON file of the rows.
        on_row: called before each row that is made.

    Raises:
        WorkerError: a data set or a method cannot be used.
    """
    settings = table.model_dump(mode="json", exclude={"title", "paper", "methods", "datasets"})
    document: Json = {"settings": settings, "rows": {}}
    if kept.exists():
        found = json.loads(kept.read_text())
        document = found if found.get("settings") == settings else document
    datasets: set[str] = {
        one for one in table.datasets if one == "digits" or (folder / one).is_dir()
    }
    if not datasets:
        raise AuditError(f"{folder} has none of {', '.join(table.datasets)}")
    subjects: dict[tuple[str, str], Subject] = {}
    for row in rows_of(table, datasets):
        if row.key in document["rows"]:
            continue
        on_row(row)
        place = row.dataset, row.method
        if place not in subjects:
            subjects = {place: _subject(table, row, folder)}
        document["rows"][row.key] = vars(row) | _measure(table, row, subjects[place])
        write_atomically(kept, json.dumps(document, indent=1).encode(), mode=0o644)
    return [document["rows"][row.key] for row in rows_of(table, datasets)]


def write_table(table: TableFile, rows: list[Json]) -> str:
    """The table as markdown, beside the paper's figures."""
    paper = {(one.dataset, one.method, table.attack): one for one in table.paper}
    lines = [
        f"# {table.title}",
        "",
        "| data set | method | attack | PSNR, dB | SSIM | paper's PSNR | paper's SSIM |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        figure = paper.get((row["dataset"], row["method"], row["attack"]))
        said = ("–", "–") if figure is None else (f"{figure.psnr:.2f}", f"{figure.ssim:.4f}")
        measured = f"{row['psnr']:.2f}", f"{row['ssim']:.4f}"
        cells = [row["dataset"], row["method"], row["attack"], *measured, *said]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Means over {table.images} images, each alone in one step at the first weights, labels "
        f"told. {table.iterations} iterations. LPIPS, which the paper has too, needs a trained "
        "network and is left out. *ig* and *rog* draw embedding and head at random, as in the "
        "paper; ROG is without its enhancement network. *tailored* is the paper's own attack on "
        "HyperFL; *closed form* is told no labels. Of a single example the private methods sample "
        "all in every step, so that their noise for the same ε is more than a larger client's.",
    ]
    return "\n".join(lines) + "\n"


def _subject(table: TableFile, row: Row, folder: Path) -> Subject:
    one_step: dict[str, HyperparameterValue] = {"epochs": 1, "batch_size": 1}
    chosen = one_step | table.settings.get(row.method, {})
    data_dir = None if row.dataset == "digits" else folder / row.dataset
    request = SpecificationRequest(
        name="table",
        method=row.method,
        model=default_model(row.dataset),
        round_policy=RoundPolicy(rounds=1),
        seed=table.seed,
        dataset=row.dataset,
        data_dir=data_dir,
        settings=[f"{name}={json.dumps(value).strip(chr(34))}" for name, value in chosen.items()],
    )
    return demo_subject(
        specify(request),
        dataset=row.dataset,
        data_dir=data_dir,
        partition="paper",
        num_clients=table.clients,
        rounds=0,
        seed=table.seed,
        policy=SitePolicy(),
    )


def _measure(table: TableFile, row: Row, subject: Subject) -> Json:
    replay, pixel_range = Replay(subject), subject.pixel_range
    train = subject.client.data.train
    generator = torch.Generator().manual_seed(table.seed)
    chosen = torch.randperm(len(train), generator=generator)[: table.images]
    reached, similar = [], []
    for place in chosen:
        own = train.only(place[None])
        upload = replay.upload(subject.client, replay.plan(), own)
        observation = replay.seen([upload], replay.plan())
        pixels = pixel_range.pixels(images_of(own))
        found = _attack(table, row, subject, observation, own.labels)
        reached.append(float(psnr(found, pixels)))
        similar.append(float(ssim(found, pixels)))
    return {"psnr": statistics.fmean(reached), "ssim": statistics.fmean(similar)}


def _attack(
    table: TableFile, row: Row, subject: Subject, observation: Observation, labels: torch.Tensor
) -> torch.Tensor:
    """One image (1, C, H, W)."""
    network, pixel_range = subject.network, subject.pixel_range
    if row.attack == "tailored":
        return tailored_inversion.invert(
            network, observation, labels, pixel_range, iterations=table.iterations
        )
    change = read_extractor_change(observation)
    if row.attack == "closed form":
        prior = pixel_range.pixels(images_of(subject.prior))
        found = hypernetwork_inversion.invert(
            network, change, 1, pixel_range, prior, iterations=table.iterations
        )
        if not len(found):
            raise WorkerError(f"the closed form found nothing in an update of {row.method}")
        return found[:1]
    attack = gradient_inversion.invert if row.attack == "ig" else reduced_inversion.invert
    if row.method == "hyperfl":
        change = _with_drawn_embedding(observation, change)
    return attack(network, change, labels, pixel_range, iterations=table.iterations)


def _with_drawn_embedding(observation: Observation, change: ExtractorChange) -> ExtractorChange:
    """As the paper's attacker has it, who does not read the embedding off the update."""
    resources = SiteResources(allowed_imports=observation.allowed_imports)
    method = HyperFL(observation.plan, torch.device("cpu"), resources)
    scale = float(observation.plan.hyperparameters["feature_scale"])
    size = int(observation.plan.hyperparameters["embedding_size"])
    drawn = torch.randn(size, generator=torch.Generator().manual_seed(0))
    theta = method.read(observation.weights).generate(drawn, scale)
    return replace(change, before=network_layout(observation).split(theta))
