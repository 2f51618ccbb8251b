"""``hyperfl worker predict``: the CSV and the JSON that it writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from worker.commands.worker import worker
from worker.operations import prediction
from worker.operations.prediction import Prediction, Predictions

FOUND = Predictions(
    7,
    ("bénin", "malin, rare"),
    (Prediction(Path("a.png"), (0.25, 0.75)), Prediction(Path("b.png"), (2 / 3, 1 / 3))),
)
ROWS = [
    {"file": "a.png", "class": "malin, rare", "p(bénin)": 0.25, "p(malin, rare)": 0.75},
    {"file": "b.png", "class": "bénin", "p(bénin)": 0.666667, "p(malin, rare)": 0.333333},
]


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> Any:
    async def predict(*_: object, **__: object) -> Predictions:
        return FOUND

    monkeypatch.setattr(prediction, "predict", predict)
    file = folder / "worker.toml"
    file.write_text(
        'coordinator_url = "http://127.0.0.1:9"\nfederation = "tiny"\n'
        '[[clients]]\nname = "alice"\nstate_dir = "alice"\ndata = {dataset = "digits"}\n'
    )
    command = ["predict", "--config", str(file), "--client", "alice", *options, "a.png", "b.png"]
    done = CliRunner().invoke(worker, command)
    assert done.exit_code == 0, done.output
    return done


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_the_csv_has_the_classes_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = [{key: str(value) for key, value in row.items()} for row in ROWS]
    assert read(run(monkeypatch, tmp_path).stdout) == expected
    output = tmp_path / "predictions.csv"
    said = run(monkeypatch, tmp_path, "--output", str(output)).stdout
    assert said == f"{output}: 2 predictions, by weights version 7\n"
    assert read(output.read_text()) == expected


def test_the_json_has_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    printed = run(monkeypatch, tmp_path, "--json").stdout
    assert json.loads(printed) == {"weights_version": 7, "predictions": ROWS}
