"""Wrong JSON made from right JSON: one thing is changed, where it hurts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

Path = tuple[Any, ...]

TEXTS = (
    "",
    " ",
    "a" * 300,
    "x" * 70_000,
    "../../etc/passwd",
    "site-a\n2026 forged line",
    "\x00",
    "\x1b[2Jcleared",
    "\u202edesrever",
    "\ud800",
    "é" * 100,
    "NaN",
    "sha256:" + "0" * 64,
    "os:abort",
    "' OR 1=1 --",
)
NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 255, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 63, (1 << 63) - 1, 1 << 64),
    *(10**30, 0.5, -0.0, 1e-320, 1e308, 1.5),
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None] * 50, {"a": {"a": {"a": 1}}})
_RAW = (
    b"",
    b"\xff\xfe",
    b"NaN",
    b"-Infinity",
    b"1e999999",
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 2000 + b"1" + b"}" * 2000,
    b'"\\ud800"',
    b"[" + b"0," * 30_000 + b"0]",
)


def interesting(draw: Random, secrets: tuple[str, ...]) -> Any:
    """A value that a careless reader falls over; ``secrets`` may be among the texts."""
    match draw.randrange(5):
        case 0:
            return draw.choice(TEXTS)
        case 1:
            return draw.choice(NUMBERS)
        case 2:
            return deepcopy(draw.choice(OTHERS))
        case 3 if secrets:
            return draw.choice(secrets)
        case _:
            return str(draw.choice(NUMBERS))


def mutated(draw: Random, document: Any, secrets: tuple[str, ...] = ()) -> bytes:
    """``document`` with one to three changes, as bytes."""
    changed = deepcopy(document)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        changed = _change(draw, changed, secrets)
    body = json.dumps(changed).encode()
    return _change_bytes(draw, body) if draw.randrange(4) == 0 else body


def swapped(draw: Random, document: Any) -> bytes:
    """``document`` with one text in another's place, of the same length if there is one.

    So what is checked after the form is tried too.
    """
    changed = deepcopy(document)
    texts = [
        (path, value) for path in _places(changed) if isinstance(value := _at(changed, path), str)
    ]
    if texts:
        path, value = draw.choice(texts)
        alike = [other for _, other in texts if len(other) == len(value) and other != value]
        if path and alike:
            _at(changed, path[:-1])[path[-1]] = draw.choice(alike)
    return json.dumps(changed).encode()


def _at(document: Any, path: Path) -> Any:
    for key in path:
        document = document[key]
    return document


def _places(value: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    if isinstance(value, dict | list):
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(member, (*path, key))


def _change(draw: Random, document: Any, secrets: tuple[str, ...]) -> Any:
    path = draw.choice(list(_places(document)))
    if not path:
        return interesting(draw, secrets) if draw.randrange(4) == 0 else document
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    key = path[-1]
    match draw.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[draw.choice(TEXTS + secrets)] = holder.pop(key)
        case 2 if isinstance(holder, list):
            holder.extend(deepcopy(holder[key]) for _ in range(draw.choice((1, 3, 40))))
        case 3 if isinstance(holder, dict):
            holder[f"{key}_"] = interesting(draw, secrets)
        case 4:
            holder[key] = [holder[key]]
        case _:
            holder[key] = interesting(draw, secrets)
    return document


def _change_bytes(draw: Random, body: bytes) -> bytes:
    at = draw.randrange(len(body) + 1)
    match draw.randrange(7):
        case 0:
            return body[:at]
        case 1:
            return body[:at] + draw.choice(_RAW) + body[at:]
        case 2 | 6:
            return draw.choice(_RAW)
        case 3:
            return b"\xef\xbb\xbf" + body
        case 4:
            # The same member twice.
            return body[:-1] + b"," + body[1:] if body.startswith(b"{") and len(body) > 2 else body
        case _:
            flipped = bytearray(body)
            flipped[at % len(flipped)] ^= 1 << draw.randrange(8)
            return bytes(flipped)
