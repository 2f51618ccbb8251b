"""A fork of this process: what is imported here, the fork need not import again.

PyTorch takes seconds to import. So the demo imports it once, and computes nothing with it: neither
OpenMP's threads nor CUDA would survive a fork. Whatever computes runs in a fork itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any

from shared.terminal.cli import main

FORKS = multiprocessing.get_context("fork")


class Fork:
    """A fork of this process that runs a function; seen from outside as a Popen is."""

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self._process = FORKS.Process(target=_run, args=(function, *arguments))
        self._process.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid or 0

    def poll(self) -> int | None:
        """Its exit code, or minus the number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it still runs after ``timeout`` seconds.
        """
        self._process.join(timeout)
        exit_code = self.poll()
        if exit_code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return exit_code

    def send_signal(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """Asks it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends it."""
        self._process.kill()


def fork_command(arguments: Sequence[str], output: IO[bytes], errors: IO[bytes]) -> Fork:
    """A fork that is ``hyperfl ARGUMENTS``, and writes to these files."""
    return Fork(_be_command, arguments, output, errors)


def _run(function: Callable[..., None], *arguments: Any) -> None:
    # What this process does on a signal is not for its forks.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    function(*arguments)


def _be_command(arguments: Sequence[str], output: IO[bytes], errors: IO[bytes]) -> None:
    for stream, file in ((sys.stdout, output), (sys.stderr, errors)):
        os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["hyperfl", *arguments]
    main()
