"""What ``round watch`` says while a federation goes on, stands still, or cannot be asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from coordinator.commands.watching import SAID_AFTER_SECONDS, Event, Watch
from coordinator.errors import CoordinatorSilent

RUNNING: dict[str, Any] = {"name": "tiny", "state": "running", "reason": None}
PAUSED = RUNNING | {"state": "paused", "reason": "paused by an administrator"}
FINISHED = RUNNING | {"state": "finished"}
OPEN = {"number": 1, "phase": "open", "updates_received": 1, "not_heard_from": ["b"]}
COMMITTED = OPEN | {"phase": "committed"}
SILENT = CoordinatorSilent("http://c does not answer")

Look = tuple[dict[str, Any], list[dict[str, Any]]] | CoordinatorSilent


class ScriptedCoordinator:
    """Answers each look by the next of a script, whose length is the number of looks."""

    def __init__(self, *looks: Look) -> None:
        self._looks: Iterator[Look] = iter(looks)
        self._rounds: list[dict[str, Any]] = []

    def get(self, path: str, reply: Any, first: int = 1) -> Any:
        if path.endswith("/rounds"):
            return [one for one in self._rounds if one["number"] >= first]
        look = next(self._looks)
        if isinstance(look, CoordinatorSilent):
            raise look
        federation, self._rounds = look
        return federation


def watched(*looks: Look, seconds_between: float = 0.0) -> tuple[list[Event], dict[str, Any]]:
    said: list[Event] = []
    now = 0.0

    def sleep(_: float) -> None:
        nonlocal now
        now += seconds_between

    watch = Watch(ScriptedCoordinator(*looks), "tiny", said.append, sleep, lambda: now)  # type: ignore[arg-type]
    return said, watch.run()


def test_each_closed_round_and_each_state_is_said_once() -> None:
    second = OPEN | {"number": 2}
    said, ended = watched(
        (RUNNING, [OPEN]),
        (RUNNING, [COMMITTED, second]),
        (PAUSED, [COMMITTED, second]),
        (PAUSED, [COMMITTED, second]),
        (RUNNING, [COMMITTED, second]),
        (FINISHED, [COMMITTED, second | {"phase": "failed"}]),
    )
    assert said == [
        {"federation": RUNNING},
        {"round": COMMITTED},
        {"federation": PAUSED},
        {"federation": RUNNING},
        {"round": second | {"phase": "failed"}},
    ]
    assert ended == FINISHED


def test_a_coordinator_that_is_away_is_waited_for_and_said_once() -> None:
    said, ended = watched((RUNNING, []), SILENT, SILENT, (RUNNING, []), (FINISHED, []))
    assert said == [{"federation": RUNNING}, {"silent": str(SILENT)}, {"silent": None}]
    assert ended == FINISHED


def test_a_coordinator_that_never_answered_is_not_waited_for() -> None:
    with pytest.raises(CoordinatorSilent, match="does not answer"):
        watched(SILENT, (FINISHED, []))


def test_a_round_that_waits_long_says_once_for_whom() -> None:
    two = OPEN | {"updates_received": 2, "not_heard_from": ["c"]}
    looks: list[Look] = [(RUNNING, [OPEN])] * 4 + [(RUNNING, [two])] * 4 + [(FINISHED, [])]
    said, _ = watched(*looks, seconds_between=SAID_AFTER_SECONDS / 2)
    assert said == [{"federation": RUNNING}, {"waiting": OPEN}, {"waiting": two}]


def test_a_round_of_a_paused_federation_waits_for_nobody() -> None:
    looks: list[Look] = [(PAUSED, [OPEN])] * 5 + [(FINISHED, [])]
    said, _ = watched(*looks, seconds_between=SAID_AFTER_SECONDS)
    assert said == [{"federation": PAUSED}]
