"""Files of several versions' deltas, made as the coordinator makes them."""

from __future__ import annotations

from collections.abc import Mapping

from shared.arrays import NamedArrays
from shared.rest.schema import DeltaChain
from shared.tensors import codec, file_header
from shared.tensors.version_deltas import CHAIN_METADATA_KEY, join_tensors


def chain_file(deltas: Mapping[int, NamedArrays], since: int = 0) -> bytes:
    """The file of the deltas, each given by the version that it leads to."""
    headers, data = {}, b""
    for version, delta in deltas.items():
        content = codec.encode(delta)
        reader = codec.StreamReader()
        reader.feed_header_only(content)
        assert reader.header is not None
        headers[version] = reader.header
        data += content[reader.data_offset :]
    chain = DeltaChain(since=since, version=max(deltas, default=1)).model_dump_json()
    return file_header.encode_header(join_tensors(headers), {CHAIN_METADATA_KEY: chain}) + data
