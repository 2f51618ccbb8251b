"""The steps of a demo: what a fork says, and how it fails."""

from __future__ import annotations

import os
import signal

import pytest

from worker.demo.steps import call, run_step
from worker.errors import DataError, DemoError, RefusedInput, WorkerError


def _refuse() -> None:
    raise DataError("no images")


def _fail() -> None:
    raise WorkerError("no luck")


def _be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _end_by_signal() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_function_runs_in_another_process() -> None:
    assert call(os.getpid) != os.getpid()
    assert call(max, 3, 5) == 5


def test_what_a_function_refuses_is_refused_here() -> None:
    with pytest.raises(RefusedInput, match=r"^no images$"):
        call(_refuse)


def test_a_function_that_fails_says_why() -> None:
    with pytest.raises(DemoError, match=r"^no luck$"):
        call(_fail)


def test_a_function_that_is_killed_has_no_result() -> None:
    with pytest.raises(DemoError, match=r"^_be_killed ended with -9$"):
        call(_be_killed)


def test_what_this_process_does_on_a_signal_is_not_for_its_forks() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(DemoError, match=r"^_end_by_signal ended with -15$"):
            call(_end_by_signal)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_command_that_refuses_its_input_says_why() -> None:
    with pytest.raises(RefusedInput, match=r"missing\.toml"):
        run_step("worker", "status", "--config", "missing.toml", "--json")
