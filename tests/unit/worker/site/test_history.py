"""A client's history on disk: a line is whole or absent, and there are not too many."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from shared.rest.schema import TaskKind
from tests.support.fake_coordinator import NOW
from worker.errors import PrivateStateError
from worker.site import history
from worker.site.history import FILE_NAME, HistoryRow, Sent, Validation, add, read


def row(round_number: int, **fields: Any) -> HistoryRow:
    sent = Sent(
        bytes=9,
        digest="sha256:" + 64 * "0",
        tensors=(),
        metrics={},
        withheld_metrics=("loss",),
        policy={"metrics": "none"},
    )
    return HistoryRow(
        at=NOW,
        round_number=round_number,
        kind=TaskKind.TRAIN,
        weights_version=0,
        weights_digest="sha256:" + 64 * "1",
        examples={"train": {"cat": 3}},
        metrics={"loss": 0.5},
        sent=sent,
    ).model_copy(update=fields)


def test_rounds_are_read_in_order(tmp_path: Path) -> None:
    assert read(tmp_path / "new") == []
    for number in (1, 2, 3):
        add(tmp_path / "new", row(number))
    assert read(tmp_path / "new") == [row(1), row(2), row(3)]
    assert (tmp_path / "new" / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_a_round_that_was_trained_again_is_there_once(tmp_path: Path) -> None:
    for one in (row(1), row(2), row(2, metrics={"loss": 0.1}), row(2, kind=TaskKind.EVALUATE)):
        add(tmp_path, one)
    assert [one.metrics["loss"] for one in read(tmp_path)] == [0.5, 0.1, 0.5]


def test_a_loss_that_is_not_finite_is_read_again(tmp_path: Path) -> None:
    diverged = Validation(accuracy=0.0, loss=float("inf"), examples=1)
    add(tmp_path, row(1, metrics={"loss": float("nan")}, validation=diverged))
    (found,) = read(tmp_path)
    assert math.isnan(found.metrics["loss"])
    assert found.validation == diverged


@pytest.mark.parametrize("length", [1, 20, 200])
def test_what_a_crash_left_is_passed_over_and_taken_away(tmp_path: Path, length: int) -> None:
    add(tmp_path, row(1))
    file = tmp_path / FILE_NAME
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:length])
    assert read(tmp_path) == [row(1)]
    add(tmp_path, row(2))
    assert read(tmp_path) == [row(1), row(2)]


def test_the_oldest_are_taken_away(tmp_path: Path) -> None:
    line = row(1).model_dump_json().encode() + b"\n"
    count = history.MAX_ROUNDS + history.MAX_ROUNDS // 2
    lines = [line.replace(b'"round_number":1', b'"round_number":%d' % n) for n in range(count)]
    (tmp_path / FILE_NAME).write_bytes(b"".join(lines))
    assert read(tmp_path)[0].round_number == count - history.MAX_ROUNDS
    add(tmp_path, row(count))
    found = read(tmp_path)
    assert len(found) == history.MAX_ROUNDS
    assert (tmp_path / FILE_NAME).read_bytes().count(b"\n") == history.MAX_ROUNDS
    assert found[-1].round_number == count


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    add(tmp_path, row(1))
    (tmp_path / FILE_NAME).write_bytes(b"nothing\n" + (tmp_path / FILE_NAME).read_bytes())
    with pytest.raises(PrivateStateError, match=r"history\.jsonl is damaged: line 1: "):
        read(tmp_path)
