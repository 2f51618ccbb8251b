"""How this process starts another ``hyperfl``."""

from __future__ import annotations

import sys


def command_line(*arguments: str) -> list[str]:
    """The words that run the installed ``hyperfl`` with ``arguments`` under this interpreter.

    ``-P`` keeps the current folder off the path: what lies there must not take a module's place.
    """
    return [sys.executable, "-P", "-m", "hyperfl_command", *arguments]
