"""A client's long-term keys for secure sums, in one file beside its private state."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from shared.secure_sum.cards import Key, SiteKeys
from worker.errors import PrivateStateError
from worker.site import json_file

FILE_NAME = "keys.json"
LOCK_NAME = "keys-lock"


class _KeyFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: Key
    share_key: Key


def load_keys(folder: Path) -> SiteKeys | None:
    """The keys in ``folder``; None if there are none yet.

    Raises:
        PrivateStateError: the file cannot be used; it is left as it is.
    """
    file = folder / FILE_NAME
    kept = json_file.load(file, _KeyFile)
    if kept is None:
        return None
    try:
        return SiteKeys.from_text(kept.identity, kept.share_key)
    except ValueError as error:
        raise PrivateStateError(f"{file} cannot be used: {error}") from error


def obtain_keys(folder: Path) -> SiteKeys:
    """The keys in ``folder``, made now where there are none: whoever asks first makes them.

    Raises:
        PrivateStateError: the file cannot be used; it is left as it is.
    """
    with _alone(folder):
        return load_keys(folder) or _write_new(folder)


def make_keys(folder: Path) -> SiteKeys:
    """New keys in ``folder``, in place of any before: other sites have to trust them anew."""
    with _alone(folder):
        return _write_new(folder)


def _write_new(folder: Path) -> SiteKeys:
    keys = SiteKeys.generate()
    identity, share_key = keys.to_text()
    kept = _KeyFile(identity=identity, share_key=share_key)
    json_file.save(folder / FILE_NAME, kept)
    return keys


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits for others that make keys here: a worker and a command may start at once."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
