"""The TOML file of an experiment: grids of runs, each a ``hyperfl demo`` of its own."""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.arrays import digest_bytes
from shared.federation.model_names import check_method, check_model
from shared.federation.plan_errors import fill_in
from shared.federation.plans import HyperparameterValue, find_preset, plan_of, takes_backbone
from shared.federation.protection_kinds import (
    ProtectionKind,
    default_encoding,
    with_shared_bias,
)
from shared.terminal.text_files import UnreadableText, read_text
from shared.validation import first_fault
from worker.data.source import DatasetName
from worker.demo.defaults import default_model
from worker.errors import ExperimentError


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_PARTITION, _PROTECTION = "paper", "none"


class Run(_Model):
    """One run: what decides its result, but not where the data lies."""

    method: str
    dataset: str
    clients: int
    rounds: int
    seed: int
    model: str | None = None
    image_shape: str | None = None
    cohort_size: int | None = None
    partition: str = _PARTITION
    encoding: str = "factored"
    protection: str = _PROTECTION
    epsilon: float | None = None
    preset: str | None = None
    backbone_weights: str | None = None
    settings: dict[str, HyperparameterValue] = Field(default_factory=dict)
    hyperparameters: dict[str, HyperparameterValue] = Field(default_factory=dict)
    """All of the method's, defaults too: under another version's defaults it is another run."""
    backbone_digest: str | None = None
    """Of the file of the backbone's weights, where they come from one; not part of the key."""

    @property
    def key(self) -> str:
        """The same for the same run, however it was written."""
        return self._without("backbone_digest")

    @property
    def cell(self) -> str:
        """The same for runs that differ only in their seed."""
        return self._without("backbone_digest", "seed")

    def _without(self, *left_out: str) -> str:
        return json.dumps(self.model_dump(mode="json", exclude=set(left_out)), sort_keys=True)

    def backbone_file(self, folder: Path) -> Path | None:
        """The file of the backbone's weights, if they come from one; ``folder`` is the grid's."""
        if self.backbone_weights in (None, "hub", "random"):
            return None
        return folder / str(self.backbone_weights)

    def arguments(self, data_dir: Path | None, folder: Path) -> list[str]:
        """The arguments of ``hyperfl`` that make this run; ``folder`` is the grid's."""
        options: dict[str, object | None] = {
            "dataset": self.dataset,
            "model": self.model,
            "clients": self.clients,
            "rounds": self.rounds,
            "method": self.method,
            "seed": self.seed,
            "partition": self.partition,
            "image-shape": self.image_shape,
            "encoding": self.encoding,
            "protection": self.protection if self.is_protected else None,
            "epsilon": self.epsilon,
            "cohort-size": self.cohort_size,
            "preset": self.preset,
            "backbone-weights": self.backbone_file(folder) or self.backbone_weights,
            "data-dir": data_dir,
        }
        arguments = ["demo", "--json"]
        for name, value in options.items():
            arguments += [] if value is None else [f"--{name}", str(value)]
        for name, value in self.settings.items():
            arguments += ["--set", f"{name}={json.dumps(value).strip(chr(34))}"]
        return arguments

    @property
    def variant(self) -> str:
        """What sets the run apart from its method's defaults, for people; may be empty."""
        parts = [
            f"partition {self.partition}" if self.partition != _PARTITION else "",
            f"encoding {self.encoding}"
            if self.encoding != default_encoding(self.protection, self.method)
            else "",
            self.protection if self.is_protected else "",
            f"ε {self.epsilon:g}" if self.epsilon is not None else "",
            "RANDOM backbone" if self.is_trial else "",
            f"preset {self.preset}" if self.preset else "",
            *(f"{name}={value}" for name, value in self.settings.items()),
        ]
        return ", ".join(part for part in parts if part)

    @property
    def is_protected(self) -> bool:
        """Whether updates are summed or noised."""
        return self.protection != _PROTECTION

    @property
    def is_trial(self) -> bool:
        """Whether the backbone has learned nothing, so that accuracies mean nothing."""
        return self.backbone_weights == "random"

    def describe(self) -> str:
        """One line for people."""
        model = "" if self.model is None else f" {self.model}"
        cohort = "" if self.cohort_size is None else f" ({self.cohort_size} a round)"
        variant = f", {self.variant}" if self.variant else ""
        return (
            f"{self.method} on {self.dataset}{model}, {self.clients} clients{cohort}, "
            f"{self.rounds} rounds, seed {self.seed}{variant}"
        )


_Count = Annotated[int, Field(ge=1)]


class Grid(_Model):
    """Every method with every data set, model, number of clients, settings and seed."""

    methods: tuple[str, ...] = Field(min_length=1)
    datasets: tuple[DatasetName, ...] = Field(min_length=1)
    models: tuple[str, ...] = ()
    clients: tuple[_Count, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(2022,), min_length=1)
    settings: tuple[dict[str, HyperparameterValue], ...] = Field(default=({},), min_length=1)
    rounds: _Count
    cohort_size: _Count | None = None
    image_shape: str | None = None
    partition: Literal["paper", "dirichlet", "iid"] = "paper"
    encoding: Literal["factored", "dense"] | None = None
    protection: ProtectionKind = "none"
    epsilon: Annotated[float, Field(gt=0)] | None = None
    """For ``dp`` and ``secure-sum+dp``, of all rounds together."""
    preset: str | None = None
    backbone_weights: str | None = None
    """``hub``, ``random``, or a file relative to the experiment's; for methods on a backbone."""

    def runs(self) -> Iterator[Run]:
        """All of them; seeds vary slowest, so that a part of the grid is a whole comparison."""
        for seed, dataset, clients, model, method, settings in itertools.product(
            self.seeds,
            self.datasets,
            self.clients,
            self.models or (None,),
            self.methods,
            self.settings,
        ):
            yield Run(
                method=method,
                dataset=dataset,
                clients=clients,
                rounds=self.rounds,
                seed=seed,
                model=model,
                image_shape=self.image_shape,
                cohort_size=self.cohort_size,
                partition=self.partition,
                encoding=self.encoding or default_encoding(self.protection, method),
                protection=self.protection,
                epsilon=self.epsilon,
                preset=self.preset,
                backbone_weights=self.backbone_weights,
                settings=settings,
            )


class Experiment(_Model):
    """An experiment's file."""

    title: str
    paper: str | None = None
    """Name of a table in ``paper.toml`` beside the file."""
    checkpoints: tuple[_Count, ...] = ()
    """Rounds whose accuracies the report has a table of."""
    grids: tuple[Grid, ...] = Field(min_length=1)

    def runs(self) -> list[Run]:
        """Every run of every grid, each once, in the file's order."""
        return list({run.key: run for grid in self.grids for run in grid.runs()}.values())


def load_experiment(file: Path) -> Experiment:
    """Reads an experiment's file.

    Raises:
        ExperimentError: it is missing or wrong; says where.
    """
    try:
        return Experiment.model_validate(load_toml(file))
    except ValidationError as error:
        raise ExperimentError(f"{file}: {first_fault(error)}") from error


def load_toml(file: Path) -> dict[str, Any]:
    """A TOML file's document. Raises ExperimentError if it is none."""
    try:
        return tomllib.loads(read_text(file))
    except UnreadableText as error:
        raise ExperimentError(str(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{file} is not TOML: {error}") from error


_SPECIFIED = ("rounds", "backbone_weights", "backbone_digest")
"""What ``hyperfl worker specify`` fills in by itself, from what a run says elsewhere."""


def with_hyperparameters(runs: list[Run]) -> list[Run]:
    """The runs, each with all of its method's hyperparameters.

    Raises:
        ExperimentError: at the first method, model or setting that no worker would take.
    """
    return [run.model_copy(update={"hyperparameters": _hyperparameters(run)}) for run in runs]


def _hyperparameters(run: Run) -> dict[str, HyperparameterValue]:
    model = run.model or default_model(run.dataset)
    try:
        if run.epsilon is not None and not run.protection.endswith("dp"):
            raise ValueError("epsilon is for the protections dp and secure-sum+dp")
        check_method(run.method)
        chosen = {} if run.preset is None else find_preset(run.method, run.preset, run.rounds)
        if run.backbone_weights is not None and not takes_backbone(run.method):
            raise ValueError(
                f"backbone_weights does not apply to {run.method}, which uses no frozen backbone"
            )
        check_model(run.method, model)
        if run.cohort_size is not None and run.cohort_size > run.clients:
            raise ValueError(f"cohort_size {run.cohort_size} is more than {run.clients} clients")
        plan = plan_of(run.method)
        if plan is None:
            return chosen | run.settings
        specified: dict[str, HyperparameterValue] = {
            "rounds": run.rounds,
            "backbone_digest": f"sha256:{'0' * 64}",
        }
        specified = {name: one for name, one in specified.items() if name in plan.model_fields}
        asked = specified | chosen | run.settings
        filled = fill_in(plan, with_shared_bias(run.method, asked) if run.is_protected else asked)
        return {name: value for name, value in filled.items() if name not in _SPECIFIED}
    except ValidationError as error:
        raise ExperimentError(f"{run.describe()}: {first_fault(error)}") from error
    except ValueError as error:
        raise ExperimentError(f"{run.describe()}: {error}") from error


def with_backbone_digests(runs: list[Run], folder: Path) -> list[Run]:
    """The runs, each with the digest of the file of its backbone's weights, if it has one.

    Raises:
        ExperimentError: at the first file that is not there.
    """
    digests: dict[Path | None, str | None] = {None: None}
    for file in {run.backbone_file(folder) for run in runs}:
        if file is None:
            continue
        if not file.is_file():
            raise ExperimentError(f"{file} is missing; `hyperfl experiment pretrain` makes one")
        digests[file] = digest_bytes(file.read_bytes())
    return [
        run.model_copy(update={"backbone_digest": digests[run.backbone_file(folder)]})
        for run in runs
    ]
