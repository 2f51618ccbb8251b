"""The version of a client's model that was best on its validation split, kept whole at the site.

Two files beside the private state: the private tensors with what was measured, and the shared
weights that they were measured with, since a coordinator deletes old versions. The first names the
second by its digest and is written after it, so that what is named is there.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, ValidationError

from shared.arrays import Array, NamedArrays, digest_arrays, digest_bytes
from shared.rest.schema import Count, Digest
from shared.tensors import codec, file_header
from shared.validation import first_fault
from worker.errors import PrivateStateError
from worker.files import write_atomically

FILE_NAME = "best.safetensors"
_WEIGHTS = "best-weights-{}.safetensors"
_METADATA_KEY = "hyperfl-best-version"


class BestVersion(BaseModel):
    """What is known of the best version, without its tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    federation: str
    specification_digest: str
    client: str
    weights_version: Count
    weights_digest: Digest
    round_number: Count
    """After whose training it was measured; of a version that was only evaluated, that round's."""
    accuracy: float
    """0 to 1, on the validation split, as ``loss``."""
    loss: float
    num_examples: Count
    examples_digest: Digest
    """Of the validation split: accuracies on two splits say nothing of which version is better."""


@dataclass(frozen=True, eq=False)
class KeptVersion:
    """The best version with its tensors.

    Attributes:
        about: what was measured.
        private: the client's private tensors by name.
        weights: the shared weights by name, float32.
    """

    about: BestVersion
    private: NamedArrays
    weights: NamedArrays


def is_better(new: BestVersion, kept: BestVersion | None) -> bool:
    """Whether a version takes another's place: as good is enough, for it is newer."""
    if not math.isfinite(new.loss):
        return False
    return kept is None or new.accuracy >= kept.accuracy


def save_best(folder: Path, kept: KeptVersion) -> None:
    """Replaces the best version in ``folder``: after a crash the old or the new is there, whole."""
    weights_file = _weights_file(folder, kept.about)
    if not weights_file.exists():
        write_atomically(weights_file, codec.encode(kept.weights))
    private = {name: np.asarray(one, order="C") for name, one in kept.private.items()}
    metadata = {
        _METADATA_KEY: kept.about.model_dump_json(),
        "digest": _digest(kept.about, private),
    }
    write_atomically(folder / FILE_NAME, safetensors.numpy.save(private, metadata))
    for other in folder.glob(_WEIGHTS.format("*")):
        if other != weights_file:
            with contextlib.suppress(OSError):  # the next one removes it
                other.unlink()


def read_best(folder: Path) -> BestVersion | None:
    """What is known of the best version in ``folder``; None if there is none.

    Raises:
        PrivateStateError: the file cannot be used; it is left as it is.
    """
    file = folder / FILE_NAME
    if not file.exists():
        return None
    return _read(file)[0]


def check_owner(
    folder: Path, about: BestVersion, *, federation: str, specification_digest: str, client: str
) -> None:
    """Raises PrivateStateError if the best version in ``folder`` belongs to something else."""
    owners = (about.federation, about.specification_digest, about.client)
    if owners != (federation, specification_digest, client):
        raise PrivateStateError(
            f"{folder / FILE_NAME} is of client {about.client} of federation {about.federation}, "
            "or of another specification of it: move it away"
        )


def load_best(folder: Path) -> KeptVersion | None:
    """The best version in ``folder``; None if there is none.

    Raises:
        PrivateStateError: a file cannot be used; it is left as it is.
    """
    file = folder / FILE_NAME
    if not file.exists():
        return None
    about, private = _read(file)
    weights_file = _weights_file(folder, about)
    try:
        weights, _ = codec.decode(weights_file.read_bytes())
    except (OSError, file_header.CodecError) as error:
        raise PrivateStateError(f"{weights_file} cannot be used: {error}") from error
    if digest_arrays(weights) != about.weights_digest:
        raise PrivateStateError(f"{weights_file} is damaged: its digest does not match")
    return KeptVersion(about, private, weights)


def _weights_file(folder: Path, about: BestVersion) -> Path:
    return folder / _WEIGHTS.format(about.weights_digest.removeprefix("sha256:"))


def _read(file: Path) -> tuple[BestVersion, dict[str, Array]]:
    try:
        with safetensors.safe_open(file, "np") as opened:
            metadata = opened.metadata() or {}
            private = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        about = BestVersion.model_validate_json(metadata.get(_METADATA_KEY, ""))
    except ValidationError as error:
        raise PrivateStateError(f"{file} is damaged: {first_fault(error)}") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise PrivateStateError(f"{file} is damaged: {str(error).splitlines()[0]}") from error
    if _digest(about, private) != metadata.get("digest"):
        raise PrivateStateError(f"{file} is damaged: its digest does not match")
    return about, private


def _digest(about: BestVersion, private: NamedArrays) -> str:
    return digest_bytes((about.model_dump_json() + digest_arrays(private)).encode())
