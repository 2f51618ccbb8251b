"""The paper's figures, from ``paper.toml`` beside an experiment's file."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.validation import first_fault
from worker.errors import ExperimentError
from worker.experiment.grid import Run, load_toml


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(_Model):
    """One number of the paper, and what it was measured for. None means whatever it is."""

    method: str
    dataset: str
    clients: int
    model: str | None = None
    accuracy: float | None = Field(default=None, ge=0.0, le=100.0)
    """Final test accuracy in percent."""
    seconds: float | None = Field(default=None, gt=0.0)
    """Seconds a round."""

    def fits(self, run: Run) -> bool:
        """Whether the figure is for such runs; all are for the paper's partition."""
        if run.is_trial or run.partition != "paper":
            return False
        return (self.method, self.dataset, self.clients) == (
            run.method,
            run.dataset,
            run.clients,
        ) and self.model in (None, run.model)


class PaperTable(_Model):
    """One of the paper's tables."""

    rounds: int | None = Field(default=None, ge=1)
    """How many the accuracies were measured after."""
    figures: tuple[Figure, ...]

    def find(self, run: Run) -> Figure | None:
        """The figure for such a run, if there is one."""
        return next((figure for figure in self.figures if figure.fits(run)), None)


def load_paper_table(file: Path, name: str) -> PaperTable:
    """One of the paper's tables.

    Raises:
        ExperimentError: the file or the table is missing or wrong.
    """
    tables = load_toml(file)
    if name not in tables:
        raise ExperimentError(f"{file} has no table {name!r}; it has {', '.join(tables)}")
    try:
        return PaperTable.model_validate(tables[name])
    except ValidationError as error:
        raise ExperimentError(f"{file}: {name}: {first_fault(error)}") from error
