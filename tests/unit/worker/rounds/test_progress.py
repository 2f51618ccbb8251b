"""How far training is, for people at a terminal and for whoever reads logs."""

from __future__ import annotations

import io
from contextlib import suppress

import structlog
from rich.console import Console

from tests.support.round_bench import Bench
from worker.methods.interface import TrainingInterrupted
from worker.rounds.progress import EventView, RoundProgress, TerminalView, Training, view_for


class RecordedView:
    def __init__(self) -> None:
        self.seen: list[object] = []

    def begin(self, training: Training) -> None:
        self.seen.append(training)

    def step(self, number: int, loss: float | None) -> None:
        self.seen.append((number, loss))

    def end(self) -> None:
        self.seen.append("end")


def test_a_round_takes_as_many_steps_as_the_last_with_the_same_clients() -> None:
    view = RecordedView()
    progress = RoundProgress(view)
    for number, (clients, is_done) in enumerate(
        ((["a"], True), (["a"], False), (["a"], True), (["b"], True)), start=1
    ):
        with suppress(TrainingInterrupted), progress.of_round(number, clients):
            for _ in range(3 if is_done else 1):
                progress.step()
            if not is_done:
                raise TrainingInterrupted
    assert [one for one in view.seen if isinstance(one, Training)] == [
        Training(1, ("a",), None),
        Training(2, ("a",), 3),
        Training(3, ("a",), 3),
        Training(4, ("b",), None),
    ]


def test_the_newest_loss_is_said() -> None:
    view = RecordedView()
    progress = RoundProgress(view)
    with progress.of_round(1, ["a", "b"]):
        progress.step()
        progress.measured(0.5)
        progress.step()
        progress.measured(None)
        progress.step()
    assert view.seen[1:] == [(1, None), (2, 0.5), (3, 0.5), "end"]


def test_events_come_now_and_then_with_the_time_left() -> None:
    now = [100.0]
    view = EventView(lambda: now[0])
    view.begin(Training(7, ("a",), 40))
    with structlog.testing.capture_logs() as events:
        for step in range(1, 41):
            now[0] += 4.0
            view.step(step, 0.25)
    assert [(one["step"], one["seconds"], one["seconds_left"]) for one in events] == [
        (8, 32.0, 128.0),
        (16, 64.0, 96.0),
        (24, 96.0, 64.0),
        (32, 128.0, 32.0),
        (40, 160.0, 0.0),
    ]
    assert {(one["round"], one["steps"], one["loss"]) for one in events} == {(7, 40, 0.25)}
    view.begin(Training(8, ("a",), None))
    now[0] += 30.0
    with structlog.testing.capture_logs() as events:
        view.step(1, None)
    assert events[0]["seconds_left"] is None


def test_a_terminal_has_one_line_that_goes_away() -> None:
    screen = io.StringIO()
    view = TerminalView(Console(file=screen, force_terminal=True, width=100))
    view.begin(Training(7, ("a",), 40))
    view.step(12, 0.25)
    view.end()
    view.end()
    view.step(13, 0.25)
    shown = screen.getvalue()
    assert "round 7, step 12 of 40" in shown
    assert "loss 0.2500" in shown
    assert "\x1b[2K" in shown, "the line is erased"


def test_only_a_terminal_without_json_has_the_line() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True)
    assert isinstance(view_for(terminal, None), TerminalView)
    assert isinstance(view_for(terminal, "console"), TerminalView)
    assert isinstance(view_for(terminal, "json"), EventView)
    assert isinstance(view_for(Console(file=io.StringIO()), None), EventView)


async def test_a_round_of_the_worker_is_counted(bench: Bench) -> None:
    view = RecordedView()
    bench.progress = RoundProgress(view)
    await bench.round_work().do(
        [bench.held("bob", round_number=3), bench.held("alice", round_number=3)]
    )
    assert view.seen == [Training(3, ("alice", "bob"), None), (1, None), (2, None), "end"]
