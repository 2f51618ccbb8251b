"""The commands of docs/own-data.md on rows of features, with real data at three sites.

Their columns lie in other orders, under other names, in CSV and in Parquet.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from sklearn.datasets import load_breast_cancer

from tests.support.processes import PROJECT, Finished, ServingCoordinator, hyperfl_here

pytestmark = pytest.mark.e2e

_SECTION = (PROJECT / "docs" / "own-data.md").read_text().split("\n## Rows of features\n")[1]
_BLOCKS = re.findall(r"```bash\n(.*?)```", _SECTION.split("\n## ")[0], re.DOTALL)
COMMANDS = {
    shlex.split(line)[2]: shlex.split(line)[1:] for block in _BLOCKS for line in block.splitlines()
}
_NAME = "clinics-of-the-docs"
"""Other tests may have a federation called clinics at the same coordinator."""
CATEGORIES = ("fine", "middling", "coarse")

Table = list[dict[str, str]]


def cancer() -> tuple[list[str], Table]:
    """All 569 rows as text; the texture, which has a number, as one of three categories."""
    data = load_breast_cancer()
    names = [name.replace(" ", "_") for name in data.feature_names]
    texture = names.index("mean_texture")
    bounds = np.quantile(data.data[:, texture], [1 / 3, 2 / 3])
    rows = []
    for values, target in zip(data.data, data.target, strict=True):
        row = {name: repr(float(value)) for name, value in zip(names, values, strict=True)}
        row["mean_texture"] = CATEGORIES[int(np.searchsorted(bounds, values[texture]))]
        rows.append(row | {"label": str(data.target_names[target])})
    return names, rows


def write_csv(file: Path, columns: list[str], rows: Table) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def write_sites(folder: Path, names: list[str], rows: Table) -> list[str]:
    """Tables of three sites, and what each says of its own in ``[clients.data]``."""
    a, b, c = (rows[start::3] for start in range(3))
    for row in a[::10]:
        row["mean_area"] = "NA"
    write_csv(folder / "site-a.csv", [*names, "label"], a)
    for number, row in enumerate(b):
        row |= {"Radius": row["mean_radius"], "diagnosis": row["label"], "id": f"p{number}"}
        row["diagnosis"] = row["diagnosis"].upper()
    shuffled = ["id", "diagnosis", *(name for name in reversed(names) if name != "mean_radius")]
    write_csv(folder / "site-b.csv", [*shuffled, "Radius"], b)
    typed = {
        name: [row[name] if name in ("label", "mean_texture") else float(row[name]) for row in c]
        for name in ["label", *sorted(names)]
    }
    pyarrow.parquet.write_table(pyarrow.table(typed), folder / "site-c.parquet")
    said = 'dataset = "features"\ntest_fraction = 0.2\ntable_file = '
    return [
        f'{said}"site-a.csv"',
        f'{said}"site-b.csv"\nignored_columns = ["id"]\n'
        '[clients.data.features]\nRadius = "mean_radius"\ndiagnosis = "label"\n'
        '[clients.data.classes]\nMALIGNANT = "malignant"\nBENIGN = "benign"',
        f'{said}"site-c.parquet"',
    ]


def write_config(folder: Path, url: str, tokens: dict[str, str], data: list[str]) -> None:
    lines = [f'coordinator_url = "{url}"', f'federation = "{_NAME}"']
    for seed, ((site, token), own) in enumerate(zip(tokens.items(), data, strict=True)):
        lines += [
            f'[[clients]]\nname = "{site}"\nstate_dir = "state/{site}"\nseed = {seed}',
            f'enrolment_token = "{token}"\n[clients.data]\n{own}',
        ]
    (folder / "worker.toml").write_text("\n".join(lines) + "\n")


def test_sites_with_other_tables_train_a_model_that_says_the_same_everywhere(
    coordinator: ServingCoordinator, tmp_path: Path
) -> None:
    def run(command: str, *more: str) -> Finished:
        words = [_NAME if word == "clinics" else word for word in COMMANDS[command]]
        done = hyperfl_here(*words, *more, folder=tmp_path)
        assert done.exit_code == 0, (words, done.errors, done.output)
        return done

    assert [*COMMANDS] == ["specify", "check", "run", "evaluate", "predict", "export"]
    names, rows = cancer()
    told = [f"{name}={'|'.join(CATEGORIES)}" if "mean_tex" in name else name for name in names]
    (tmp_path / "features.txt").write_text("\n".join(told) + "\n")
    run("specify", "--minimum-updates", "3")
    coordinator.admin("federation", "create", tmp_path / "clinics.json")
    data = write_sites(tmp_path, names, rows)
    sites = ("site-a", "site-b", "site-c")
    write_config(tmp_path, coordinator.url, coordinator.invite(_NAME, *sites), data)
    coordinator.admin("federation", "start", _NAME)
    assert "mean_area: 19 of 190 values are missing" in run("check").output
    run("run")
    measured = json.loads(run("evaluate", "--json").output)
    assert [one["client"] for one in measured] == [*sites]
    assert min(one["accuracy"] for one in measured) >= 0.9

    new = rows[:30]
    write_csv(tmp_path / "new-rows.csv", [*reversed(names)], new)
    run("predict")
    with (tmp_path / "predictions.csv").open(newline="") as stream:
        predicted = list(csv.DictReader(stream))
    assert predicted[0]["file"] == "new-rows.csv[2]"
    hits = [one["class"] == row["label"] for one, row in zip(predicted, new, strict=True)]
    assert np.mean(hits) >= 0.85
    if find_spec("onnxruntime") is None:
        pytest.skip("the extra export is not installed")
    run("export")
    answers = answers_of(tmp_path / "site-a.onnx", new)
    given = [[float(one["p(malignant)"]), float(one["p(benign)"])] for one in predicted]
    np.testing.assert_allclose(given, answers, atol=2e-5)


def answers_of(model: Path, rows: Table) -> np.ndarray:
    """As whoever got the model's file alone would compute them, from what the file says."""
    import onnxruntime  # noqa: PLC0415 - the extra export

    session = onnxruntime.InferenceSession(str(model))
    said = json.loads(session.get_modelmeta().custom_metadata_map["hyperfl-model"])
    assert said["class_names"] == ["malignant", "benign"]
    assert len(said["mean"]) == len(said["std"]) == len(said["features"]) == 30
    raw = [
        [
            feature["categories"].index(row[feature["name"]])
            if "categories" in feature
            else float(row[feature["name"]].replace("NA", "nan"))
            for feature in said["features"]
        ]
        for row in rows
    ]
    (logits,) = session.run(["logits"], {"rows": np.array(raw, np.float32)})
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    answers: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return answers
