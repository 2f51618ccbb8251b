"""The formats of an export, by name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from coordinator.errors import NotExported
from coordinator.tracking.interface import Tracker
from coordinator.tracking.tables import Tables, write_csv, write_parquet

Format = Literal["csv", "parquet", "tensorboard", "mlflow"]
_PACKAGES = {"parquet": "pyarrow", "tensorboard": "tensorboardX", "mlflow": "mlflow"}


def check_packages(file_format: Format) -> None:
    """Raises NotExported if the format's package is not installed."""
    package = _PACKAGES.get(file_format)
    if package is not None and find_spec(package) is None:
        raise NotExported(
            f"--format {file_format} needs {package}: pip install 'hyperfl[tracking]'"
        )


def make_tracker(file_format: Format, output: str) -> Tracker:
    """What writes to ``output``: a folder that is not there yet, or a tracking server of MLflow."""
    match file_format:
        case "csv":
            return Tables(Path(output), "csv", write_csv)
        case "parquet":
            return Tables(Path(output), "parquet", write_parquet)
        case "tensorboard":
            from coordinator.tracking.events import Events  # noqa: PLC0415 - the extra tracking

            return Events(Path(output))
        case "mlflow":
            from coordinator.tracking.mlflow_run import MlflowRun  # noqa: PLC0415 - the same

            return MlflowRun(output)
