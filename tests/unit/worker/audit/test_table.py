"""The paper's tables of attacks: their files, and a small one from beginning to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.processes import PROJECT
from worker.audit.table import load_table, measure_table, rows_of, write_table
from worker.errors import AuditError

SMALL = """
title = "Table 0"
attack = "ig"
methods = ["fedavg", "hyperfl"]
datasets = ["digits"]
clients = 8
images = 1
iterations = 2
paper = [{ method = "fedavg", dataset = "digits", psnr = 32.64, ssim = 0.8925 }]
"""


@pytest.mark.parametrize("name", ["table3", "table5"])
def test_the_tables_of_this_project_can_be_read(name: str) -> None:
    table = load_table(PROJECT / "experiments" / f"{name}.toml")
    rows = list(rows_of(table, {"fashion-mnist"}))
    assert {row.method for row in rows} == set(table.methods)
    assert all(figure.method in table.methods for figure in table.paper)


def test_a_table_goes_on_where_it_was(tmp_path: Path) -> None:
    file, kept = tmp_path / "small.toml", tmp_path / "small.json"
    file.write_text(SMALL)
    made: list[str] = []
    rows = measure_table(load_table(file), tmp_path, kept, lambda row: made.append(row.attack))
    assert made == ["ig", "ig", "tailored", "closed form"]
    document = json.loads(kept.read_text())
    del document["rows"]["digits fedavg ig"]
    kept.write_text(json.dumps(document))
    again = measure_table(load_table(file), tmp_path, kept, lambda row: made.append(row.attack))
    assert made[4:] == ["ig"]
    assert again == rows
    text = write_table(load_table(file), rows)
    assert "| digits | fedavg | ig |" in text
    assert "| 32.64 | 0.8925 |" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('attack = "ig"', 'attack = "dlg"', "attack: "),
        ("images = 1", "", "images: Field required"),
        ('title = "Table 0"', "title =", "is not TOML"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = tmp_path / "small.toml"
    file.write_text(SMALL.replace(old, new))
    with pytest.raises(AuditError, match=message):
        load_table(file)


def test_a_folder_without_the_data_sets_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text(SMALL.replace('"digits"', '"emnist"'))
    with pytest.raises(AuditError, match="has none of emnist"):
        measure_table(load_table(file), tmp_path, tmp_path / "kept.json", lambda _: None)
