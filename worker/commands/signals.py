"""How a command that trains is asked to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def run_until_signal(running: Awaitable[Result], stop: threading.Event) -> Result:
    """The first SIGTERM or SIGINT asks to stop; the second ends the process at once."""

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return await running
