"""Keeps what must not be written down out of logs and audit events."""

from __future__ import annotations

import re

from shared.terminal.printable import printable

_TOKEN = re.compile(r"hyperfl-(admin|read-only|client|enrolment|session)-[\w-]+", re.ASCII)
_LONGEST = 200


def redact(text: str, *secrets: str) -> str:
    """``text`` in one printable line of bounded length, with no token and none of ``secrets``."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "…")
    return cut(redact_tokens(text), _LONGEST)


def cut(text: str, longest: int) -> str:
    """``text`` in one printable line of at most ``longest`` characters."""
    text = printable(text[: longest + 1])
    return text if len(text) <= longest else text[: longest - 1] + "…"


def redact_tokens(text: str) -> str:
    """``text`` as it is, but with no token of any kind."""
    return _TOKEN.sub(r"hyperfl-\1-…", text)
