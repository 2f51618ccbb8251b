"""What a client's rounds gave, for the people of its site: a file beside the private state.

JSON lines, one a round, oldest first. A line is added in one write; what a crash left of one is
passed over, and taken away by the next.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ValidationError

from shared.rest.schema import Count, Digest, TaskKind
from shared.validation import first_fault
from worker.errors import PrivateStateError
from worker.files import naming, write_atomically
from worker.site.scores import RECORD, Scores

FILE_NAME = "history.jsonl"
MAX_ROUNDS = 1000
"""That are kept; the file has at most half as many more before the oldest are taken away."""


class Validation(BaseModel):
    """What was measured on the validation split."""

    model_config = RECORD

    accuracy: float
    loss: float
    examples: Count


class SentTensor(BaseModel):
    """One tensor of an update."""

    model_config = RECORD

    name: str
    bytes: Count


class Sent(BaseModel):
    """What an update holds, as it was made to be sent.

    A secure sum's looks random to whoever has no other of its cohort.
    """

    model_config = RECORD

    bytes: Count
    digest: Digest
    """Of the whole update."""
    tensors: tuple[SentTensor, ...]
    metrics: Mapping[str, float]
    """In the clear; a secure sum has them in its vector."""
    withheld_metrics: tuple[str, ...]
    """What the method measured and the policy did not let leave."""
    policy: Mapping[str, Any]
    """What the site's policy says where it is not the default, and of metrics."""


class HistoryRow(BaseModel):
    """One round of one client."""

    model_config = RECORD

    format: Literal[1] = 1
    at: AwareDatetime
    round_number: Count
    kind: TaskKind
    weights_version: Count
    weights_digest: Digest
    """Of the weights that the round began with."""
    examples: Mapping[str, Mapping[str, int]]
    """By split, then by class."""
    metrics: Mapping[str, float]
    """All that the method measured; most of it on the test split, before and after training."""
    scores: Scores | None = None
    """On the test split, of the weights that the round began with and the client's private tensors
    after it; None where the method gives no logits, or some that are not finite."""
    validation: Validation | None = None
    """Of the same, on the validation split."""
    sent: Sent


def add(folder: Path, row: HistoryRow) -> None:
    """Adds one round.

    Raises:
        OSError: the disk does not take it.
    """
    file = folder / FILE_NAME
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    with naming(file), os.fdopen(descriptor, "r+b") as stream:
        content = stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        stream.truncate(len(whole))
        stream.seek(len(whole))
        stream.write(row.model_dump_json().encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    lines = whole.splitlines(keepends=True)
    if len(lines) >= MAX_ROUNDS + MAX_ROUNDS // 2:
        newest = file.read_bytes().splitlines(keepends=True)[-MAX_ROUNDS:]
        write_atomically(file, b"".join(newest))


def read(folder: Path) -> list[HistoryRow]:
    """The rounds that are kept, oldest first. A round that was trained again is there once.

    Raises:
        PrivateStateError: the file cannot be used; it is left as it is.
    """
    file = folder / FILE_NAME
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PrivateStateError(f"{file} cannot be read: {error.strerror}") from error
    rounds: dict[tuple[int, str, TaskKind], HistoryRow] = {}
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            row = HistoryRow.model_validate_json(line)
        except ValidationError as error:
            raise PrivateStateError(
                f"{file} is damaged: line {number}: {first_fault(error)}"
            ) from error
        key = (row.round_number, row.weights_digest, row.kind)
        rounds.pop(key, None)  # the newest is where it was trained last
        rounds[key] = row
    return list(rounds.values())[-MAX_ROUNDS:]
