"""``hyperfl worker status``: tables for people, and everything as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from shared.rest.schema import TaskKind
from tests.support.fake_coordinator import NOW
from worker.commands.worker import worker
from worker.site import history
from worker.site.history import HistoryRow, Sent, Validation
from worker.site.scores import scores_of


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "worker.toml"
    clients = [
        f'[[clients]]\nname = "{name}"\nstate_dir = "{name}"\ndata = {{dataset = "digits"}}\n'
        for name in ("alice", "bob")
    ]
    file.write_text(
        'coordinator_url = "http://127.0.0.1:9"\nfederation = "tiny"\n' + "".join(clients)
    )
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    for number, labels in ((1, [0, 1, 0]), (2, [0, 0, 0]), (3, [0, 1, 1])):
        history.add(
            tmp_path / "alice",
            HistoryRow(
                at=NOW,
                round_number=number,
                kind=TaskKind.TRAIN,
                weights_version=number - 1,
                weights_digest="sha256:" + 64 * str(number),
                examples={"train": {"cat": 30, "[red]dog": 1}, "test": {"cat": 1, "[red]dog": 2}},
                metrics={"accuracy_before": 0.125},
                scores=scores_of(logits, torch.tensor(labels), ("cat", "[red]dog")),
                validation=Validation(accuracy=0.75, loss=1.0, examples=4),
                sent=Sent(
                    bytes=4321,
                    digest="sha256:" + 64 * "0",
                    tensors=(),
                    metrics={},
                    withheld_metrics=("accuracy_before",),
                    policy={"metrics": "none"},
                ),
            ),
        )
    return file


def run(config: Path, *options: str) -> Any:
    done = CliRunner().invoke(worker, ["status", "--config", str(config), *options])
    assert done.exit_code == 0, done.output
    return done


def test_each_client_is_a_line(config: Path) -> None:
    header, alice, bob = run(config).stdout.splitlines()
    assert header.split()[0] == "client"
    assert alice.split()[:3] == ["alice", "not", "enrolled"]
    assert "0.6667" in alice
    assert bob.split()[0] == "bob"


def test_a_clients_rounds_and_classes_are_shown(config: Path) -> None:
    said = run(config, "--client", "alice", "--rounds", "2").stdout
    rows = [line.split() for line in said.splitlines()]
    assert ["2", "train", "0.125", "0.6667"] in [row[:4] for row in rows]
    assert not any(row[:2] == ["1", "train"] for row in rows)
    assert any("4321" in row and "accuracy_before" in row for row in rows)
    assert ["[red]dog", "1", "2", "0.5", "1", "0.75"] in rows
    assert rows[-2:] == [["cat", "1", "0"], ["[red]dog", "1", "1"]]
    assert "bob" not in said


def test_the_json_has_everything(config: Path) -> None:
    alice, bob = json.loads(run(config, "--json").stdout)
    assert [row["round_number"] for row in alice["history"]] == [1, 2, 3]
    assert alice["history"][-1]["scores"]["confusion"] == [[1, 0], [1, 1]]
    assert alice["history"][-1]["sent"]["policy"] == {"metrics": "none"}
    assert (bob["history"], bob["best"], bob["epsilon"]) == ([], None, None)
