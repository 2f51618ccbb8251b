"""A federation's rounds as other programs read them: each format, read by its own reader."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from pyarrow import parquet
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coordinator.errors import ExportFailed
from coordinator.tracking.formats import Format, make_tracker
from coordinator.tracking.records import parameters
from tests.support.coordinator import running_coordinator
from tests.support.rounds import send_updates
from tests.support.specifications import tiny_specification

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("_file_store")]

Records = tuple[dict[str, Any], list[dict[str, Any]]]


@pytest.fixture
def _file_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own database takes ten seconds to make."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.fixture
async def records(tmp_path: Path) -> Records:
    """A finished federation, and its rounds: two committed, and between them one that failed."""
    specification = tiny_specification(rounds=2, minimum_updates=2, evaluate_final=False)
    url = f"sqlite:///{tmp_path / 'hyperfl.db'}"
    async with running_coordinator(url, tmp_path) as coordinator:
        await coordinator.started(specification, "site-a", "site-b")
        for is_kept in (True, False, True):
            if is_kept:
                await send_updates(coordinator, specification, "site-a", "site-b")
            coordinator.clock.advance(specification.round_policy.deadline_seconds + 1)
            await coordinator.driver.step()
            await coordinator.driver.step()
        rounds = [await coordinator.show(f"tiny/rounds/{number}") for number in (1, 2, 3)]
        return await coordinator.show("tiny"), rounds


def write(file_format: Format, output: str, records: Records) -> None:
    federation, rounds = records
    tracker = make_tracker(file_format, output)
    tracker.begin(federation)
    for round_ in rounds:
        tracker.add(round_)
        tracker.flush()
    tracker.end(federation)


def test_csv_has_three_tables(records: Records, tmp_path: Path) -> None:
    federation, rounds = records
    write("csv", str(tmp_path / "out"), records)
    tables = {}
    for name in ("federation", "rounds", "clients"):
        with (tmp_path / "out" / f"{name}.csv").open(newline="") as stream:
            tables[name] = list(csv.DictReader(stream))
    assert len(list((tmp_path / "out").iterdir())) == 3
    said = {row["name"]: row["value"] for row in tables["federation"]}
    assert said["specification_digest"] == federation["specification_digest"]
    assert said["weights_digest"] == federation["weights_digest"]
    assert said["training.method"] == "hyperfl"
    assert [row["phase"] for row in tables["rounds"]] == ["committed", "failed", "committed"]
    assert [row["new_digest"] for row in tables["rounds"]] == [
        one["new_digest"] or "" for one in rounds
    ]
    assert [(row["round"], row["client"]) for row in tables["clients"]] == [
        (str(number), client) for number in (1, 2, 3) for client in ("site-a", "site-b")
    ]
    metrics = rounds[0]["assignments"][0]["metrics"]
    assert metrics
    for name, value in metrics.items():
        assert float(tables["clients"][0][name]) == value
        assert tables["clients"][2][name] == "", "of a round without updates"


def test_parquet_has_the_same_with_types(records: Records, tmp_path: Path) -> None:
    _, rounds = records
    write("parquet", str(tmp_path / "out"), records)
    table = parquet.read_table(tmp_path / "out" / "rounds.parquet").to_pylist()
    assert [row["bytes_up"] for row in table] == [one["bytes_up"] for one in rounds]
    assert table[0]["closed_at"] == datetime.fromisoformat(rounds[0]["closed_at"])
    for name, value in rounds[0]["metrics"].items():
        assert table[0][name] == value
        assert table[1][name] is None
    clients = parquet.read_table(tmp_path / "out" / "clients.parquet").to_pylist()
    assert [row["client"] for row in clients] == ["site-a", "site-b"] * 3


def test_tensorboard_draws_the_curves(records: Records, tmp_path: Path) -> None:
    federation, rounds = records
    write("tensorboard", str(tmp_path / "out"), records)
    found = EventAccumulator(str(tmp_path / "out"))
    found.Reload()
    (name, _) = next(iter(rounds[0]["metrics"].items()))
    drawn = [(one.step, one.value) for one in found.Scalars(f"rounds/{name}")]
    assert drawn == [
        (one["number"], pytest.approx(one["metrics"][name])) for one in (rounds[0], rounds[2])
    ]
    first = found.Scalars(f"clients/site-b/{name}")[0]
    assert first.wall_time == datetime.fromisoformat(rounds[0]["closed_at"]).timestamp()
    text = found.Tensors("federation/text_summary")[0].tensor_proto.string_val[0].decode()
    assert federation["weights_digest"] in text.replace("\\", "")
    assert "training.method" in found.Tensors("parameters/text_summary")[0].tensor_proto.string_val[
        0
    ].decode().replace("\\", "")


def test_mlflow_has_a_run_with_parameters_metrics_and_digests(
    records: Records, tmp_path: Path
) -> None:
    federation, rounds = records
    uri = (tmp_path / "mlruns").as_uri()
    write("mlflow", uri, records)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    given = parameters(federation)
    assert run.data.params == {name: str(value)[:500] for name, value in given.items()}
    assert json.loads(run.data.params["training.image_shape"]) == [1, 4, 4]
    name, value = next(iter(rounds[0]["metrics"].items()))
    history = client.get_metric_history(run.info.run_id, name)
    assert [one.step for one in history] == [1, 3]
    assert history[0].value == value
    assert history[0].timestamp == int(
        1000 * datetime.fromisoformat(rounds[0]["closed_at"]).timestamp()
    )
    assert run.data.tags["hyperfl.weights_digest"] == federation["weights_digest"]
    assert run.data.tags["hyperfl.digest_of_version.1"] == rounds[0]["new_digest"]


def test_a_run_that_is_taken_back_is_deleted(records: Records, tmp_path: Path) -> None:
    uri = (tmp_path / "mlruns").as_uri()
    tracker = make_tracker("mlflow", uri)
    tracker.begin(records[0])
    tracker.discard()
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny")
    assert client.search_runs([experiment.experiment_id]) == []


def test_a_place_that_mlflow_cannot_use_is_one_line() -> None:
    with pytest.raises(ExportFailed, match=r"^MLflow at ftp://host says: .+$"):
        make_tracker("mlflow", "ftp://me:secret@host").begin({"name": "tiny", "specification": {}})
