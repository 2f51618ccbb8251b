"""The steps of a demo that have an end, each in a fork: commands, and functions that compute."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import IO, Any, TypeVar

from shared.terminal.failures import INVALID_INPUT, Failure, failure_of
from worker.demo.fork import FORKS, Fork, fork_command
from worker.demo.processes import ended_after
from worker.errors import FAILURES, DemoError, RefusedInput

Result = TypeVar("Result")

_STEP_SECONDS = 120


def run_step(*arguments: str) -> Any:
    """Runs ``hyperfl ARGUMENTS`` to its end and returns the JSON it printed.

    Raises:
        RefusedInput: it ended as for invalid input.
        DemoError: it failed otherwise; the message is what it said.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        with ended_after(fork_command(arguments, output, errors)) as fork:
            try:
                exit_code = fork.wait(_STEP_SECONDS)
            except subprocess.TimeoutExpired:
                raise DemoError(
                    f"hyperfl {arguments[0]} {arguments[1]} did not end within {_STEP_SECONDS} s"
                ) from None
        printed, said = _read(output), _read(errors).splitlines()
    if exit_code != 0:
        message = said[-1].removeprefix("error: ") if said else "a step failed"
        raise _error(Failure(message, exit_code))
    return json.loads(printed) if printed else None


def call(function: Callable[..., Result], *arguments: Any) -> Result:
    """What ``function`` returns in a fork; it is sent here pickled.

    Raises:
        RefusedInput: it failed with what is InvalidInput.
        DemoError: it failed otherwise; the message is what it said.
    """
    receiver, sender = FORKS.Pipe(duplex=False)
    with receiver, ended_after(Fork(_tell, sender, function, arguments)) as fork:
        sender.close()
        try:
            failure, result = receiver.recv()
        except EOFError:
            raise DemoError(f"{function.__name__} ended with {fork.wait()}") from None
    if failure is not None:
        raise _error(failure)
    return result  # type: ignore[no-any-return]


def _tell(sender: Connection, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """Sends a failure or None, and the result."""
    failure, result = None, None
    try:
        result = function(*arguments)
    except Exception as error:
        failure = failure_of(error, *FAILURES)
        if failure is None:
            raise
    sender.send((failure, result))


def _error(failure: Failure) -> DemoError | RefusedInput:
    kind = RefusedInput if failure.exit_code == INVALID_INPUT else DemoError
    return kind(failure.message)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip()
