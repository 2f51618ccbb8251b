"""A stream for logs that judges every line and keeps none."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from shared.terminal.log_lines import MAX_LINE_BYTES

_TOKEN = re.compile(r"hyperfl-[a-z]+-[\w-]{20,}")


class LogWatch(io.TextIOBase):
    """Takes what is logged: each line must be short, and name no token.

    ``secrets`` are tokens that may have been cut or spelt otherwise.
    """

    def __init__(self) -> None:
        self.secrets: list[str] = []
        self.lines = 0
        self.faults: list[str] = []

    def write(self, text: str) -> int:
        for line in text.splitlines():
            self.lines += 1
            if len(line.encode(errors="backslashreplace")) > MAX_LINE_BYTES:
                self.faults.append(f"a line of {len(line)} characters: {line[:200]}")
            if _TOKEN.search(line) or any(secret in line for secret in self.secrets):
                self.faults.append(f"a token is logged: {line[:400]}")
        return len(text)

    def taken_faults(self) -> Sequence[str]:
        """What was wrong since this was asked last."""
        faults, self.faults = self.faults, []
        return faults
