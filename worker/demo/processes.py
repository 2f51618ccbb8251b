"""The processes of a demo: every step is a ``hyperfl`` command of its own, as in real use."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shared.terminal.command_line import command_line
from worker.demo.fork import Fork, fork_command
from worker.errors import DemoError

_STOP_SECONDS = 20
_START_SECONDS = 60
_LOOK_AROUND_SECONDS = 1.0


ProcessT = TypeVar("ProcessT", subprocess.Popen[bytes], Fork)


@dataclass(frozen=True)
class BackgroundProcess:
    """A command that runs beside the demo, and the file that its log goes to."""

    name: str
    process: subprocess.Popen[bytes] | Fork
    log_file: Path

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log_file.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "its log is empty"

    def find_event(self, event: str) -> dict[str, Any] | None:
        """The first log line with this event, if it is there yet."""
        for line in self.log_file.read_text(errors="replace").splitlines():
            if line.startswith("{") and (found := _parse(line)).get("event") == event:
                return found
        return None

    def check_alive(self) -> None:
        """Raises DemoError if the process ended with a failure."""
        if self.process.poll():
            raise DemoError(f"the {self.name} ended early: {self.last_words()}")

    def wait_for_event(self, event: str, longest_seconds: float = _START_SECONDS) -> dict[str, Any]:
        """The first log line with this event.

        Raises:
            DemoError: the process ended, or nothing came within ``longest_seconds``.
        """
        give_up_at = time.monotonic() + longest_seconds
        while time.monotonic() < give_up_at:
            if (found := self.find_event(event)) is not None:
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise DemoError(f"the {self.name} did not start: {self.last_words()}")


def _parse(line: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:  # a line that is still being written
        return {}
    return found


@contextmanager
def run_in_background(name: str, folder: Path, *arguments: str) -> Iterator[BackgroundProcess]:
    """Runs ``hyperfl ARGUMENTS`` until the block ends; its log goes to ``folder/name.log``."""
    log_file = folder / f"{name}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(command_line(*arguments), stdout=log, stderr=log)
    with ended_after(process):
        yield BackgroundProcess(name, process, log_file)


@contextmanager
def fork_in_background(name: str, folder: Path, *arguments: str) -> Iterator[BackgroundProcess]:
    """As :func:`run_in_background`, in a fork of this process."""
    log_file = folder / f"{name}.log"
    with log_file.open("wb") as log:
        fork = fork_command(arguments, log, log)
    with ended_after(fork):
        yield BackgroundProcess(name, fork, log_file)


@contextmanager
def ended_after(process: ProcessT) -> Iterator[ProcessT]:
    """A process that does not outlive the block: it is asked to end, and after a while killed."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def stream_step(*arguments: str) -> Iterator[dict[str, Any] | None]:
    """Runs ``hyperfl ARGUMENTS`` and yields each line of JSON as it is printed.

    Yields None about every second without a line, so that the caller can look after the others.
    """
    lines: queue.Queue[str | None] = queue.Queue()

    def read(stream: Iterable[str]) -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    process = subprocess.Popen(command_line(*arguments), stdout=subprocess.PIPE, text=True)
    reader = threading.Thread(target=read, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        while True:
            try:
                line = lines.get(timeout=_LOOK_AROUND_SECONDS)
            except queue.Empty:
                yield None
                continue
            if line is None:
                return
            yield json.loads(line)
    finally:
        process.terminate()
        process.wait()
        reader.join()
        if process.stdout is not None:
            process.stdout.close()
