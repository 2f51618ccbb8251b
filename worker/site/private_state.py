"""What a client must not lose, in one file: private tensors, what updates left out, pending update.

The file is replaced as a whole. So the private tensors and the update that was made with them are
always of the same round, and an update that was not answered is sent again byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, ValidationError

from shared.arrays import Array, NamedArrays, digest_arrays, digest_bytes
from shared.rest.schema import Count, TaskKind
from shared.rest.state_generation import FIRST_GENERATION, StateGeneration
from shared.tensors.factored_encoding import Delta
from shared.validation import first_fault
from worker.errors import PrivateStateError
from worker.files import write_atomically
from worker.secure_sum.member_state import MemberState
from worker.site.private_state_residual import pack_residual, unpack_residual

FILE_NAME = "private.safetensors"
_METADATA_KEY = "hyperfl-private-state"
_ADDED = {2: {"pending_base_digest"}, 3: {"generation", "mark"}}
"""What each format says that those before it do not."""
_PRIVATE, _RESIDUAL, _PENDING, _SUMS = "private/", "residual/", "pending", "secure-sums"


@dataclass(frozen=True, eq=False)
class PendingUpdate:
    """An update that no receipt has been seen for."""

    kind: TaskKind
    round_number: int
    base_version: int
    content: bytes
    base_digest: str | None = None
    """Of the weights that it was made from: after a coordinator went back to a backup, others have
    the same version. None where an earlier release of this worker saved it."""


@dataclass(frozen=True, eq=False)
class PrivateState:
    """One client's private side of a federation."""

    federation: str
    specification_digest: str
    client: str
    seed: int
    """Private seed of the client's draws."""
    tensors: dict[str, Array]
    residual: Mapping[str, Delta] = field(default_factory=dict)
    """What the last update left out of its changes, by name of the shared tensor."""
    last_round: int = 0
    pending: PendingUpdate | None = None
    sums: MemberState = field(default_factory=MemberState)
    """What the client has drawn and sent for secure sums."""
    generation: StateGeneration = FIRST_GENERATION
    """How many updates it was saved with that others may read."""

    def with_update(self, update: PendingUpdate) -> PrivateState:
        """The same with an update that is to be sent: a state that no backup has yet."""
        following = StateGeneration.after(self.generation.generation)
        return replace(self, pending=update, generation=following)

    def without_pending(self) -> PrivateState:
        """The same, once the pending update is recorded."""
        return replace(self, pending=None)

    def without_unwanted(self) -> PrivateState:
        """The same, when nobody will record the pending update: what it left out goes with it."""
        if self.pending is None or self.pending.kind is not TaskKind.TRAIN:
            return self.without_pending()
        return replace(self, pending=None, residual={})


class _Description(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1, 2, 3] = 3
    federation: str
    specification_digest: str
    client: str
    seed: int
    last_round: int
    pending_kind: TaskKind | None
    pending_round: int | None
    pending_base_version: int | None
    pending_base_digest: str | None = None
    """Not in format 1."""
    generation: Count = 0
    """Not before format 3, as the mark."""
    mark: str = ""
    digest: str = ""
    """Of every array in the file and of all that is said above."""

    def check_owner(
        self, file: Path, federation: str, specification_digest: str, client: str
    ) -> None:
        for what, found, expected in (
            ("federation", self.federation, federation),
            ("client", self.client, client),
            ("specification", self.specification_digest, specification_digest),
        ):
            if found != expected:
                raise PrivateStateError(f"{file} belongs to {what} {found}, not {expected}")


def save(folder: Path, state: PrivateState) -> None:
    """Replaces the state in ``folder`` atomically; only its owner can read it."""
    arrays = {_PRIVATE + name: array for name, array in state.tensors.items()}
    arrays |= {_RESIDUAL + name: one for name, one in pack_residual(state.residual).items()}
    pending = state.pending
    if pending is not None:
        arrays[_PENDING] = np.frombuffer(pending.content, np.uint8)
    if state.sums.generation:
        arrays[_SUMS] = np.frombuffer(state.sums.model_dump_json().encode(), np.uint8)
    description = _Description(
        federation=state.federation,
        specification_digest=state.specification_digest,
        client=state.client,
        seed=state.seed,
        last_round=state.last_round,
        pending_kind=None if pending is None else pending.kind,
        pending_round=None if pending is None else pending.round_number,
        pending_base_version=None if pending is None else pending.base_version,
        pending_base_digest=None if pending is None else pending.base_digest,
        generation=state.generation.generation,
        mark=state.generation.mark,
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write_whole(folder / FILE_NAME, arrays, description)


def forget_sums(folder: Path) -> None:
    """Takes what was drawn and sent for secure sums out of the state in ``folder``.

    New keys must be in place: under the old ones nothing may be drawn twice for a round.
    Raises PrivateStateError if the file is damaged.
    """
    file = folder / FILE_NAME
    if file.exists():
        arrays, description = _read_whole(file)
        if arrays.pop(_SUMS, None) is not None:
            _write_whole(file, arrays, description)


def _write_whole(file: Path, arrays: NamedArrays, description: _Description) -> None:
    description = description.model_copy(update={"digest": _digest(description, arrays)})
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = safetensors.numpy.save(contiguous, {_METADATA_KEY: description.model_dump_json()})
    write_atomically(file, content)


def load(
    folder: Path, *, federation: str, specification_digest: str, client: str
) -> PrivateState | None:
    """The state in ``folder``; None if there is none yet.

    Raises:
        PrivateStateError: it is damaged, or belongs to something else.
    """
    file = folder / FILE_NAME
    if not file.exists():
        return None
    arrays, description = _read_whole(file)
    description.check_owner(file, federation, specification_digest, client)
    return PrivateState(
        federation=federation,
        specification_digest=specification_digest,
        client=client,
        seed=description.seed,
        tensors=_under(arrays, _PRIVATE),
        residual=unpack_residual(_under(arrays, _RESIDUAL)),
        last_round=description.last_round,
        pending=_unpack_pending(arrays, description),
        sums=_unpack_sums(file, arrays),
        generation=StateGeneration(generation=description.generation, mark=description.mark),
    )


def check_owner(folder: Path, *, federation: str, specification_digest: str, client: str) -> None:
    """Raises PrivateStateError if the state in ``folder`` belongs to something else.

    Reads what the file says of itself, and no tensors.
    """
    file = folder / FILE_NAME
    if file.exists():
        _read_description(file).check_owner(file, federation, specification_digest, client)


def read_last_round(folder: Path) -> int:
    """The number of the newest round that the client has made an update of; 0 if there is none.

    Reads what the file says of itself, and no tensors.

    Raises:
        PrivateStateError: the state is damaged.
    """
    file = folder / FILE_NAME
    return _read_description(file).last_round if file.exists() else 0


def read_tensors(folder: Path) -> dict[str, Array]:
    """The private tensors in ``folder`` by name, with the shapes they have, whosever they are.

    Raises:
        PrivateStateError: there are none, or the file is damaged.
    """
    arrays, _ = _read_whole(folder / FILE_NAME)
    return _under(arrays, _PRIVATE)


def _read_description(file: Path) -> _Description:
    with _naming_damage(file), safetensors.safe_open(file, "np") as opened:
        return _describe(opened.metadata())


def _read_whole(file: Path) -> tuple[dict[str, Array], _Description]:
    """Every array, and what the file says of itself. Raises PrivateStateError if damaged."""
    with _naming_damage(file):
        arrays, metadata = _read(file)
        description = _describe(metadata)
    if _digest(description, arrays) != description.digest:
        raise PrivateStateError(f"{file} is damaged: its digest does not match")
    return arrays, description


def _describe(metadata: Mapping[str, str] | None) -> _Description:
    return _Description.model_validate_json((metadata or {}).get(_METADATA_KEY, ""))


@contextmanager
def _naming_damage(file: Path) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise PrivateStateError(f"{file} is damaged: {first_fault(error)}") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise PrivateStateError(f"{file} is damaged: {str(error).splitlines()[0]}") from error


def _read(file: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays of any dtype and value: what a model's buffers hold is its own matter."""
    with safetensors.safe_open(file, "np") as opened:
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return arrays, opened.metadata() or {}


def _digest(description: _Description, arrays: NamedArrays) -> str:
    said = description.model_copy(update={"digest": digest_arrays(arrays)})
    unknown = set().union(*(_ADDED[one] for one in _ADDED if one > said.format))
    return digest_bytes(said.model_dump_json(exclude=unknown).encode())


def _unpack_pending(arrays: NamedArrays, description: _Description) -> PendingUpdate | None:
    kind, round_number = description.pending_kind, description.pending_round
    base_version = description.pending_base_version
    if kind is None or round_number is None or base_version is None:
        return None
    content = arrays[_PENDING].tobytes()
    return PendingUpdate(kind, round_number, base_version, content, description.pending_base_digest)


def _unpack_sums(file: Path, arrays: NamedArrays) -> MemberState:
    if _SUMS not in arrays:
        return MemberState()
    with _naming_damage(file):
        return MemberState.model_validate_json(arrays[_SUMS].tobytes())


def _under(arrays: NamedArrays, prefix: str) -> dict[str, Array]:
    return {
        name.removeprefix(prefix): array.copy()
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
