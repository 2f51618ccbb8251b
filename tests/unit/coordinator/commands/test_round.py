from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator.commands import round as command
from tests.support.processes import hyperfl_here


class _Answers:
    """A coordinator with one page of rounds."""

    def __init__(self, *rounds: dict[str, Any]) -> None:
        self._rounds = rounds

    def get(self, path: str, kind: object, first: int = 1) -> list[dict[str, Any]]:
        return [one for one in self._rounds if one["number"] >= first]


@pytest.mark.parametrize(
    ("unheard", "cohort_size", "shown"),
    [
        (["site-a", "site-c"], 5, "site-a, site-c"),
        ([f"site-{number}" for number in range(10)], 17, "site-8, site-9, 4 more"),
    ],
    ids=["a few", "many"],
)
def test_a_round_says_who_was_not_heard_from(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    unheard: list[str],
    cohort_size: int,
    shown: str,
) -> None:
    answers = _Answers(
        {
            "number": 1,
            "cohort_size": cohort_size,
            "updates_received": 3,
            "not_heard_from": unheard,
            "metrics": {},
        }
    )

    @contextmanager
    def connect(*_: object) -> Iterator[_Answers]:
        yield answers

    monkeypatch.setattr(command, "connect", connect)
    listed = hyperfl_here("round", "list", "hospitals", folder=tmp_path)
    assert listed.exit_code == 0
    assert "not heard from" in listed.output
    assert f" {shown} " in listed.output
