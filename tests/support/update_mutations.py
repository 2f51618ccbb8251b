"""Wrong updates made from captured ones: header, claims, data and the bytes between them."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from random import Random
from typing import Any

from shared.rest.schema import UPDATE_METADATA_KEY
from shared.tensors.file_header import DTYPES, LENGTH_BYTES, METADATA_KEY
from tests.support.json_mutations import interesting, mutated

_EXTREMES: dict[str, tuple[bytes, ...]] = {
    # NaN, the infinities, the largest, a denormal
    "F32": tuple(
        struct.pack("<I", one)
        for one in (0x7FC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0xFF7FFFFF, 1)
    ),
    "F16": tuple(struct.pack("<H", one) for one in (0x7E00, 0x7C00, 0xFC00, 0x7BFF, 0xFBFF, 1)),
    "BF16": tuple(struct.pack("<H", one) for one in (0x7FC0, 0x7F80, 0xFF80, 0x7F7F, 0xFF7F, 1)),
}
_NAMES = ("", "a", "head.weight", "embedding", METADATA_KEY, "x" * 5000, "é", "/left", "\ud800")
_SIZES: tuple[Any, ...] = (0, 1, 2, 3, -1, 1 << 20, 1 << 40, 1 << 62, 1.5, "4", None, True, [4])


@dataclass
class UpdateFile:
    """A safetensors file taken apart."""

    header: dict[str, Any]
    data: bytearray

    @classmethod
    def of(cls, body: bytes) -> UpdateFile:
        end = LENGTH_BYTES + int.from_bytes(body[:LENGTH_BYTES], "little")
        return cls(json.loads(body[LENGTH_BYTES:end]), bytearray(body[end:]))

    @property
    def claims(self) -> Any:
        """What the file says of itself; None where it does no longer."""
        metadata = self.header.get(METADATA_KEY)
        text = metadata.get(UPDATE_METADATA_KEY) if isinstance(metadata, dict) else None
        try:
            return json.loads(text or "null")
        except (ValueError, RecursionError):
            return None

    def claim(self, text: str) -> None:
        self.header[METADATA_KEY] = {UPDATE_METADATA_KEY: text}

    def names(self) -> list[str]:
        return sorted(name for name in self.header if name != METADATA_KEY)

    def encoded(self) -> bytes:
        text = json.dumps(self.header, separators=(",", ":")).encode()
        return struct.pack("<Q", len(text)) + text + bytes(self.data)


def for_task(body: bytes, task: dict[str, Any]) -> bytes:
    """A captured update as its worker would send it for another task."""
    file = UpdateFile.of(body)
    members = ("federation", "client", "round_number", "base_version", "base_digest")
    file.claim(json.dumps(file.claims | {name: task[name] for name in members}))
    return file.encoded()


def mutated_update(
    draw: Random, body: bytes, others: tuple[bytes, ...], secrets: tuple[str, ...] = ()
) -> bytes:
    """``body`` with one or two changes; ``others`` are updates in other encodings."""
    file = UpdateFile.of(body)
    for _ in range(draw.choice((1, 1, 1, 2))):
        _change(draw, file, others, secrets)
    return _change_bytes(draw, file.encoded()) if draw.randrange(5) == 0 else file.encoded()


def _change(
    draw: Random, file: UpdateFile, others: tuple[bytes, ...], secrets: tuple[str, ...]
) -> None:
    names = file.names()
    if not names:
        return
    name = draw.choice(names)
    entry = file.header[name]
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return  # changed before
    match draw.randrange(15):
        case 0:
            entry["dtype"] = draw.choice((*DTYPES, "I32", "BOOL", "f32", "", 4, None))
        case 1:
            _change_list(draw, entry["shape"])
        case 2:
            _change_list(draw, entry["data_offsets"])
        case 3:
            del file.header[name]
        case 4:
            file.header[draw.choice(_NAMES + secrets)] = file.header.pop(name)
        case 5:
            other = draw.choice(names)
            file.header[name], file.header[other] = file.header[other], file.header[name]
        case 6:
            file.header[name] = interesting(draw, secrets)
        case 7 | 12 | 13:
            file.claim(mutated(draw, file.claims, secrets).decode("latin-1"))
        case 8:
            file.header[METADATA_KEY] = interesting(draw, secrets)
        case 9:
            _splice(draw, file, UpdateFile.of(draw.choice(others)))
        case _:
            _change_values(draw, file, entry)


def _change_list(draw: Random, sizes: list[Any]) -> None:
    match draw.randrange(4):
        case 0 if sizes:
            sizes[draw.randrange(len(sizes))] = draw.choice(_SIZES)
        case 1:
            sizes.reverse()
        case 2:
            sizes.insert(draw.randrange(len(sizes) + 1), draw.choice(_SIZES))
        case _ if sizes:
            sizes.pop()


def _splice(draw: Random, file: UpdateFile, other: UpdateFile) -> None:
    """Takes over the tensors of another encoding, with the claim or without."""
    if draw.randrange(2):
        file.header = other.header | {METADATA_KEY: file.header.get(METADATA_KEY)}
        file.data = other.data
    else:
        name = draw.choice(other.names())
        file.header[name] = other.header[name]


def _change_values(draw: Random, file: UpdateFile, entry: dict[str, Any]) -> None:
    start, end = entry["data_offsets"] if len(entry["data_offsets"]) == 2 else (0, 0)
    extremes = _EXTREMES.get(str(entry["dtype"]))
    if extremes is None or not isinstance(start, int) or not isinstance(end, int):
        return
    value = draw.choice(extremes)
    count = (min(end, len(file.data)) - start) // len(value)
    if start < 0 or count <= 0:
        return
    at = start + len(value) * draw.randrange(count)
    file.data[at : at + len(value)] = value


def _change_bytes(draw: Random, body: bytes) -> bytes:
    header_end = min(len(body), LENGTH_BYTES + int.from_bytes(body[:LENGTH_BYTES], "little"))
    match draw.randrange(7):
        case 0:
            return body[: draw.randrange(len(body))]
        case 1:
            return body + bytes(draw.choice((1, 7, 4096)))
        case 2:
            length = draw.choice((0, 1, header_end, 1 << 20, (1 << 20) + 1, 1 << 63))
            return struct.pack("<Q", length) + body[LENGTH_BYTES:]
        case 3:
            flipped = bytearray(body)
            flipped[draw.randrange(header_end)] ^= 1 << draw.randrange(8)
            return bytes(flipped)
        case 4:
            at = draw.randrange(LENGTH_BYTES, header_end)
            return body[:at] + body[at + 1 :]
        case 5:
            # The first member twice, and the length made right.
            text = body[LENGTH_BYTES:header_end]
            text = text[:-1] + b"," + text[1:]
            return struct.pack("<Q", len(text)) + text + body[header_end:]
        case _:
            text = draw.choice((b"", b"{}", b"[]", b"null", b'{"a":' * 900, b"\xff" * 40))
            return struct.pack("<Q", len(text)) + text + body[header_end:]
