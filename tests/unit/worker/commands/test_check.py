"""``hyperfl worker check``: its table, its JSON, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from worker.commands.worker import worker
from worker.operations import check as operation
from worker.operations.check_rows import Row, fault, ok, warning

FINE, ODD, BROKEN = (
    ok("device", "cpu"),
    warning("data", "train: classes with one image: wolf", "alice"),
    fault("data", "/data/train/cat/0.png: expected an image, found an empty file", "alice"),
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "worker.toml"
    file.write_text(
        'coordinator_url = "http://127.0.0.1:9"\nfederation = "tiny"\n'
        '[[clients]]\nname = "alice"\nstate_dir = "alice"\ndata = {dataset = "digits"}\n'
    )
    return file


def run(monkeypatch: pytest.MonkeyPatch, config: Path, rows: list[Row], *options: str) -> Any:
    async def check(*_: object, **__: object) -> list[Row]:
        return rows

    monkeypatch.setattr(operation, "check", check)
    return CliRunner().invoke(worker, ["check", "--config", str(config), *options])


@pytest.mark.parametrize(
    ("rows", "options", "code"),
    [
        ([FINE], (), 0),
        ([FINE, ODD], (), 0),
        ([FINE, ODD], ("--strict",), 1),
        ([FINE], ("--strict",), 0),
        ([BROKEN, FINE, ODD], (), 2),
        ([BROKEN, ODD], ("--strict", "--json"), 2),
    ],
)
def test_the_exit_code_is_of_the_worst(
    monkeypatch: pytest.MonkeyPatch,
    config: Path,
    rows: list[Row],
    options: tuple[str, ...],
    code: int,
) -> None:
    assert run(monkeypatch, config, rows, *options).exit_code == code


def test_every_row_is_shown_whole(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    shown = run(monkeypatch, config, [FINE, ODD, BROKEN]).stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["verdict", "ok", "warning", "fault"]
    assert shown[3].rstrip().endswith(BROKEN.detail)
    printed = run(monkeypatch, config, [FINE, ODD], "--json").stdout
    assert json.loads(printed) == {
        "verdict": "warning",
        "rows": [
            {"check": "device", "verdict": "ok", "detail": "cpu", "client": ""},
            {"check": "data", "verdict": "warning", "detail": ODD.detail, "client": "alice"},
        ],
    }
