"""Versions of weights at the worker: built, rebuilt from deltas or downloaded, each checked once.

The newest version is in memory, shared by all hosted clients, and on disk for the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

import structlog

from shared.arrays import Array, NamedArrays, digest_arrays
from shared.crash_points import reached
from shared.federation.specification import FederationSpecification
from shared.rest.problems import ProblemType
from shared.tensors import codec, file_header
from shared.tensors.version_deltas import CHAIN_METADATA_KEY, advance_weights, split_chain
from worker.errors import Refused, WeightsError
from worker.files import write_atomically
from worker.remote.bounds import weights_bytes
from worker.remote.coordinator import Coordinator
from worker.remote.patience import Patience

_VERSIONS_ON_DISK = 2
_log = structlog.get_logger()


@dataclass(frozen=True, eq=False)
class _Held:
    version: int
    digest: str
    arrays: NamedArrays


class WeightsCache:
    """Gives the arrays of a version; nobody may change them."""

    def __init__(
        self, folder: Path, specification: FederationSpecification, patience: Patience
    ) -> None:
        self._folder = folder
        self._specification = specification
        self._max_bytes = weights_bytes(specification.parameters)
        self._patience = patience
        self._held: _Held | None = None

    async def get(self, client: Coordinator, version: int, digest: str) -> NamedArrays:
        """The weights of ``version``, obtained through ``client`` if they are not at hand.

        They are float32 by name, in the specification's shapes.

        Raises:
            WeightsError: what the coordinator sent has another digest.
        """
        if self._held is None or self._held.digest != digest:
            self._held = await self._obtain(client, version, digest)
        reached("weights-obtained")
        return self._held.arrays

    async def _obtain(self, client: Coordinator, version: int, digest: str) -> _Held:
        if version == 0:
            built = await asyncio.to_thread(self._build_version_0)
            if built.digest != digest:
                raise WeightsError("version 0, built from the seed, is not the coordinator's")
            return built
        file = self._folder / _file_name(version, digest)
        on_disk = await asyncio.to_thread(_read, file)
        if on_disk is not None:
            return on_disk
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = None
        if self._specification.encoding.name != "dense":
            held = await self._rebuild(client, version, digest)
        if held is None:
            held = await self._download(client, version, file)
        else:
            content = await asyncio.to_thread(codec.encode, held.arrays)
            await asyncio.to_thread(write_atomically, file, content)
        self._forget_old(file)
        return held

    async def _rebuild(self, client: Coordinator, version: int, digest: str) -> _Held | None:
        """From the version at hand and the deltas since; None if they do not lead there."""
        since = self._held
        if since is None or since.version >= version:
            since = await asyncio.to_thread(self._newest_before, version)
        file = self._folder / "deltas.part"
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
        await self._patience.insist(
            "fetching deltas",
            lambda: client.fetch_weights(
                self._specification.name,
                version,
                file,
                max_bytes=self._max_bytes,
                since=since.version,
            ),
        )
        try:
            arrays = await asyncio.to_thread(self._apply, since, file)
        except (ValueError, KeyError, WeightsError) as error:  # a CodecError is a ValueError
            _log.warning(
                "deltas are damaged, fetching the whole weights", version=version, why=str(error)
            )
            return None
        finally:
            file.unlink()
        if await asyncio.to_thread(digest_arrays, arrays) != digest:
            _log.warning(
                "deltas do not lead to the version, fetching the whole weights", version=version
            )
            return None
        return _Held(version, digest, arrays)

    def _apply(self, held: _Held, file: Path) -> NamedArrays:
        """What a file holds: whole weights, or deltas from the version at hand."""
        content, metadata = codec.decode(file.read_bytes())
        if CHAIN_METADATA_KEY not in metadata:
            return content
        arrays = {name: array.copy() for name, array in held.arrays.items()}
        chain = split_chain(content)
        if list(chain) != list(range(held.version + 1, held.version + 1 + len(chain))):
            raise WeightsError(f"the deltas do not begin at version {held.version}")
        for delta in chain.values():
            advance_weights(arrays, delta, self._specification.parameters)
        return arrays

    async def _download(self, client: Coordinator, version: int, file: Path) -> _Held:
        part = file.with_suffix(".part")
        try:
            await self._patience.insist(
                "fetching weights",
                lambda: client.fetch_weights(
                    self._specification.name, version, part, max_bytes=self._max_bytes
                ),
            )
        except Refused as refusal:
            if refusal.is_a(ProblemType.VERSION_REMOVED):
                part.unlink(missing_ok=True)  # the rest will never come
            # There is no more to come: an earlier run had downloaded all of it.
            if not refusal.is_a(ProblemType.RANGE_NOT_SATISFIABLE):
                raise
        part.replace(file)
        held = await asyncio.to_thread(_read, file)
        if held is None:
            raise WeightsError(f"the coordinator sent weights that are not version {version}")
        return held

    def _build_version_0(self) -> _Held:
        arrays = self._specification.parameters.initial_values()
        return _Held(0, digest_arrays(arrays), arrays)

    def _newest_before(self, version: int) -> _Held:
        """What an earlier run of this worker left on disk, or version 0."""
        for file in sorted(self._folder.glob("*.safetensors"), reverse=True):
            if (held := _read(file)) is not None and held.version < version:
                return held
        return self._build_version_0()

    def _forget_old(self, newest: Path) -> None:
        files = sorted(self._folder.glob("*.safetensors"), reverse=True)
        for file in files[_VERSIONS_ON_DISK:]:
            if file != newest:
                file.unlink(missing_ok=True)


def _file_name(version: int, digest: str) -> str:
    return f"{version:08d}-{digest.removeprefix('sha256:')}.safetensors"


def _read(file: Path) -> _Held | None:
    """The weights that a file's name promises; a file that does not keep it is removed."""
    version, _, hexadecimal = file.stem.partition("-")
    digest = f"sha256:{hexadecimal}"
    try:
        arrays: dict[str, Array]
        arrays, _metadata = codec.decode(file.read_bytes())
    except FileNotFoundError:
        return None
    except file_header.CodecError:
        arrays = {}
    if digest_arrays(arrays) != digest:
        _log.warning("weights on disk are damaged, removed", file=file.name)
        file.unlink(missing_ok=True)
        return None
    return _Held(int(version), digest, arrays)
