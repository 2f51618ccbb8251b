"""The numbers by which a client's rows were prepared when it began, kept beside its private state.

They never leave the site but in a model that the site exports. A model fits them: rows that come
later are prepared as the first were, whatever their own mean is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.validation import first_fault
from worker.data.row_scaling import RowScaling
from worker.errors import PrivateStateError
from worker.files import write_atomically

FILE_NAME = "preprocessing.json"

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    federation: str
    specification_digest: str
    client: str
    mean: tuple[_Finite, ...]
    """Of each feature; 0 of a category."""
    std: tuple[Annotated[_Finite, Field(gt=0)], ...]


def save_scaling(
    folder: Path, scaling: RowScaling, *, federation: str, specification_digest: str, client: str
) -> None:
    """Keeps a new client's scaling, in place of one that no private state belongs to."""
    kept = _Kept(
        federation=federation,
        specification_digest=specification_digest,
        client=client,
        mean=tuple(scaling.mean.tolist()),
        std=tuple(scaling.std.tolist()),
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(folder / FILE_NAME, kept.model_dump_json(indent=1).encode() + b"\n")


def load_scaling(
    folder: Path, measured: RowScaling, *, federation: str, specification_digest: str, client: str
) -> RowScaling:
    """The scaling that a client with a private state began with.

    Args:
        folder: of the private state.
        measured: of today's training rows; its features are the federation's.
        federation: its name.
        specification_digest: of the federation.
        client: its name.

    Raises:
        PrivateStateError: it is missing or damaged, or of something else.
    """
    file = folder / FILE_NAME
    try:
        kept = _Kept.model_validate_json(file.read_bytes())
    except OSError as error:
        raise PrivateStateError(
            f"{file}, which the private state belongs to, cannot be read ({error.strerror}): put "
            "it back from the backup, since a model does not fit other numbers"
        ) from error
    except ValidationError as error:
        raise PrivateStateError(f"{file} is damaged: {first_fault(error)}") from error
    owner = (kept.federation, kept.specification_digest, kept.client)
    if owner != (federation, specification_digest, client):
        raise PrivateStateError(f"{file} is of client {kept.client} of another federation")
    if {len(kept.mean), len(kept.std)} != {len(measured.features)}:
        raise PrivateStateError(f"{file} is damaged: it has another number of features")
    return RowScaling(measured.features, kept.mean, kept.std)
