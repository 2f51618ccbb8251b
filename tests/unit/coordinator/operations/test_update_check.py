"""A file with several faults is refused for the first of them, however its bytes arrive."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordinator.errors import Refusal
from coordinator.operations.update_check import Expectation, UpdateCheck
from shared.arrays import Array, digest_arrays
from shared.rest.schema import UPDATE_METADATA_KEY, TaskKind, UpdateMetadata
from shared.tensors import codec
from tests.support.specifications import tiny_specification

SPECIFICATION = tiny_specification(max_update_norm=1.0, on_excess="reject")
BASE_DIGEST = digest_arrays(SPECIFICATION.parameters.initial_values())
MAX_BYTES = 4096


def _update(deltas: dict[str, Array] | None = None, **claims: Any) -> bytes:
    metadata = UpdateMetadata(
        federation=SPECIFICATION.name,
        client="site-a",
        round_number=1,
        base_version=0,
        base_digest=BASE_DIGEST,
        encoding="dense",
        num_examples=5,
        metrics={},
    )
    text = metadata.model_copy(update=claims).model_dump_json()
    return codec.encode(deltas or _deltas(), {UPDATE_METADATA_KEY: text})


def _deltas(**values: float) -> dict[str, Array]:
    return {
        tensor.name: np.full(
            tensor.shape, values.get(tensor.name.split(".", 1)[1].replace(".", "_"), 0), np.float32
        )
        for tensor in SPECIFICATION.parameters.tensors
    }


def _verdict(*pieces: bytes, kind: TaskKind = TaskKind.TRAIN) -> tuple[str, str]:
    check = UpdateCheck(
        Expectation(SPECIFICATION, "site-a", 1, 0, BASE_DIGEST, kind, max_bytes=MAX_BYTES)
    )
    try:
        for piece in pieces:
            check.feed(piece)
        check.finish()
    except Refusal as refusal:
        return type(refusal).__name__, str(refusal)
    return "taken", ""


@pytest.mark.parametrize(
    ("content", "kind", "verdict", "words"),
    [
        (_update(), "train", "taken", ""),
        (_update(base_version=255) + bytes(7), "train", "StaleBaseVersion", "version 255"),
        (_update(client="site-b") + bytes(7), "train", "MalformedUpdate", "client is site-b"),
        (
            _update(_deltas(trunk_bias=np.nan)) + bytes(7),
            "train",
            "MalformedUpdate",
            "hypernetwork.trunk.bias holds nan",
        ),
        (_update(_deltas(trunk_bias=9)) + bytes(7), "train", "MalformedUpdate", "bytes follow"),
        (_update(base_version=255)[:-1], "train", "StaleBaseVersion", "version 255"),
        (
            codec.encode({}, {UPDATE_METADATA_KEY: "{}"}) + bytes(7),
            "evaluate",
            "MalformedUpdate",
            "metadata federation",
        ),
        (
            _update(base_version=255) + bytes(MAX_BYTES),
            "train",
            "StaleBaseVersion",
            "version 255",
        ),
        (bytes([255]) * (MAX_BYTES + 9), "train", "MalformedUpdate", "header claims"),
    ],
    ids=[
        *("correct", "stale, longer", "foreign, longer", "NaN, longer", "too far, longer"),
        *("stale, shorter", "no claims, longer", "stale, far too long", "no file, far too long"),
    ],
)
def test_the_first_fault_is_named_however_the_bytes_are_cut(
    content: bytes, kind: str, verdict: str, words: str
) -> None:
    whole = _verdict(content, kind=TaskKind(kind))
    assert whole[0] == verdict
    assert words in whole[1]
    for cut in range(0, len(content) + 1):
        assert _verdict(content[:cut], content[cut:], kind=TaskKind(kind)) == whole, cut
    assert _verdict(*(bytes([byte]) for byte in content), kind=TaskKind(kind)) == whole


def test_a_correct_file_that_is_over_the_limit_is_too_large() -> None:
    check = UpdateCheck(
        Expectation(SPECIFICATION, "site-a", 1, 0, BASE_DIGEST, TaskKind.TRAIN, max_bytes=200)
    )
    check.feed(_update()[:200])
    with pytest.raises(Refusal, match="at most 200 bytes"):
        check.feed(_update()[200:])
