"""A run in MLflow: curves over rounds, the parameters, and the digests as tags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from coordinator.errors import ExportFailed
from coordinator.tracking.interface import Record
from coordinator.tracking.records import facts, parameters, scalars
from shared.addresses import without_password

_AT_ONCE = 100
"""Of parameters, which MLflow takes in one call; of metrics it takes 1000."""
_LONGEST = 500
"""Of a parameter's or a tag's text that every MLflow server keeps."""


class MlflowRun:
    """A run of an experiment that is called as the federation."""

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri
        self._run_id = ""
        with self._told():
            self._client = MlflowClient(tracking_uri)

    def begin(self, federation: Record) -> None:
        """Starts the run; makes the experiment if there is none.

        Raises:
            ExportFailed: MLflow does not take it, as for the methods below.
        """
        name = federation["name"]
        given = [Param(key, str(value)[:_LONGEST]) for key, value in parameters(federation).items()]
        with self._told():
            found = self._client.get_experiment_by_name(name)
            experiment = (
                self._client.create_experiment(name) if found is None else found.experiment_id
            )
            self._run_id = self._client.create_run(experiment, run_name=name).info.run_id
            for start in range(0, len(given), _AT_ONCE):
                self._client.log_batch(self._run_id, params=given[start : start + _AT_ONCE])
            self._tag(facts(federation))

    def add(self, round_: Record) -> None:
        """Logs one closed round's metrics, with its number as the step and its end as the time."""
        at = int(1000 * datetime.fromisoformat(round_["closed_at"]).timestamp())
        number = round_["number"]
        metrics = [Metric(key, value, at, number) for key, value in scalars(round_).items()]
        with self._told():
            for start in range(0, len(metrics), _AT_ONCE):
                self._client.log_batch(self._run_id, metrics=metrics[start : start + _AT_ONCE])
            if round_["new_digest"] is not None:
                self._tag({f"digest_of_version.{round_['new_version']}": round_["new_digest"]})

    def flush(self) -> None:
        """All is there already."""

    def end(self, federation: Record) -> None:
        """Ends the run as the federation ended; one that goes on has a run that goes on."""
        status = {"finished": "FINISHED", "failed": "FAILED"}.get(federation["state"])
        with self._told():
            self._tag(facts(federation))
            if status is not None:
                self._client.set_terminated(self._run_id, status)

    def discard(self) -> None:
        """Deletes the run."""
        if self._run_id:
            with suppress(MlflowException):  # what went wrong before is said
                self._client.delete_run(self._run_id)

    def _tag(self, values: Record) -> None:
        tags = [
            RunTag(f"hyperfl.{key}", str(value)[:_LONGEST])
            for key, value in values.items()
            if value is not None
        ]
        self._client.log_batch(self._run_id, tags=tags)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            why = str(error).partition("\n")[0]
            raise ExportFailed(f"MLflow at {without_password(self._uri)} says: {why}") from error
