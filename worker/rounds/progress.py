"""How far a round's training is: one line on a terminal, else an event now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVENT_SECONDS = 30.0
"""Between two events about the same round."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Training:
    """What is trained.

    Attributes:
        round_number: the round's.
        clients: names of those that train together.
        steps: that this takes; None before a round with these clients was done.
    """

    round_number: int
    clients: tuple[str, ...]
    steps: int | None


class ProgressView(Protocol):
    """Shows one round's training after another."""

    def begin(self, training: Training) -> None:
        """A round begins."""

    def step(self, number: int, loss: float | None) -> None:
        """``number`` steps are done; ``loss`` is the newest that was measured."""

    def end(self) -> None:
        """The round's training has ended, however."""


class RoundProgress:
    """Counts a round's steps for a view. A round takes as many as the last with these clients."""

    def __init__(self, view: ProgressView) -> None:
        self._view = view
        self._steps_of: dict[tuple[str, ...], int] = {}
        self._steps = 0
        self._loss: float | None = None

    @contextmanager
    def of_round(self, round_number: int, clients: Sequence[str]) -> Iterator[None]:
        """The block trains these clients in a round."""
        together, self._steps = tuple(clients), 0
        self._view.begin(Training(round_number, together, self._steps_of.get(together)))
        try:
            yield
            self._steps_of[together] = self._steps
        finally:
            self._view.end()

    def step(self) -> None:
        """One more step begins."""
        self._steps += 1
        self._view.step(self._steps, self._loss)

    def measured(self, loss: float | None) -> None:
        """A client is done, with this loss on its test split."""
        self._loss = self._loss if loss is None else loss


class EventView:
    """Says where training is in the log, at most every half a minute.

    ``clock`` gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._training = Training(0, (), None)
        self._begun = self._said = 0.0

    def begin(self, training: Training) -> None:
        """See :class:`ProgressView`."""
        self._training = training
        self._begun = self._said = self._clock()

    def step(self, number: int, loss: float | None) -> None:
        """See :class:`ProgressView`."""
        now = self._clock()
        if now - self._said < EVENT_SECONDS:
            return
        self._said = now
        steps, seconds = self._training.steps, now - self._begun
        left = None
        if steps is not None and number:
            left = round(seconds * max(steps - number, 0) / number, 1)
        _log.info(
            "training goes on",
            round=self._training.round_number,
            step=number,
            steps=steps,
            loss=loss,
            seconds=round(seconds, 1),
            seconds_left=left,
        )

    def end(self) -> None:
        """See :class:`ProgressView`."""


class TerminalView:
    """One line at the bottom of a terminal, taken away when training ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None

    def begin(self, training: Training) -> None:
        """See :class:`ProgressView`."""
        self._progress = Progress(
            TextColumn("round {task.fields[round]}, step {task.completed:.0f}{task.fields[of]}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        of = "" if training.steps is None else f" of {training.steps}"
        self._progress.add_task(
            "", total=training.steps, round=training.round_number, of=of, loss=""
        )
        self._progress.start()

    def step(self, number: int, loss: float | None) -> None:
        """See :class:`ProgressView`."""
        if self._progress is not None:
            (task,) = self._progress.task_ids
            said = "" if loss is None else f"loss {loss:.4f}"
            self._progress.update(task, completed=number, loss=said)

    def end(self) -> None:
        """See :class:`ProgressView`."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def view_for(console: Console, log_format: str | None) -> ProgressView:
    """A line where people look at a terminal, else events.

    Args:
        console: of stderr, where the log is.
        log_format: that was asked for.
    """
    if console.is_terminal and log_format != "json":
        return TerminalView(console)
    return EventView()
