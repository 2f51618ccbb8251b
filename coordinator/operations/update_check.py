"""Checks an update's bytes as they come: format, names, shapes, claims, finiteness. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from coordinator.errors import BodyTooLarge, MalformedUpdate, StaleBaseVersion
from shared.federation.specification import FederationSpecification
from shared.rest.schema import UPDATE_METADATA_KEY, TaskKind, UpdateMetadata
from shared.secure_sum.layout import METRICS, SumLayout
from shared.tensors import codec, file_header
from shared.tensors.encodings import DenseEncoding, Encoding, check_tensors, encoding_for
from shared.tensors.norms import SquaredNorms
from shared.validation import first_fault

_METADATA_BYTES = 32 << 10
_WIRE_TENSORS_EACH = 4
_HEADER_BYTES_EACH = 512
"""A name of at most 200 characters, a dtype, eight sizes and two offsets."""


@dataclass(frozen=True)
class Expectation:
    """What the update of one assignment must be."""

    specification: FederationSpecification
    client: str
    round_number: int
    base_version: int
    base_digest: str
    kind: TaskKind
    max_bytes: int
    masked: SumLayout | None = None
    """What is summed, where updates come under masks."""
    base_norms: Mapping[str, float] | None = None
    """The norm of every tensor of the base weights; without it no change is too large for them."""


class UpdateCheck:
    """Takes an update in pieces; refuses at the first piece that is wrong."""

    def __init__(self, expectation: Expectation) -> None:
        self._expectation = expectation
        self._reader = codec.StreamReader(
            _header_bytes(expectation.specification), self._check_header
        )
        self._size_bytes = 0
        self._metadata: UpdateMetadata | None = None
        self._encoding: Encoding = DenseEncoding()
        self._squared_norms = SquaredNorms()

    def feed(self, piece: bytes) -> None:
        """Checks the next bytes. How the bytes are cut into pieces never changes the refusal.

        Raises:
            BodyTooLarge: more bytes than any correct update has.
            MalformedUpdate: the bytes do not fit; says what and where.
            StaleBaseVersion: the update starts from other weights.
        """
        room = self._expectation.max_bytes - self._size_bytes
        self._size_bytes += len(piece)
        try:
            for block in self._reader.feed(piece[:room]):
                if self._expectation.masked is not None:
                    continue  # every byte is as good as any other
                self._encoding.check_block(block)
                self._squared_norms.add(block)
        except file_header.CodecError as error:
            raise MalformedUpdate(str(error), **error.where) from error
        check_size(self._size_bytes, self._expectation.max_bytes)

    def finish(self) -> UpdateMetadata:
        """The update's metadata, once all of it has come.

        Raises:
            MalformedUpdate: bytes are missing, or the change may be larger than the policy takes.
        """
        try:
            self._reader.finish()
        except file_header.CodecError as error:
            raise MalformedUpdate(str(error), **error.where) from error
        if self._metadata is None:
            raise MalformedUpdate("the file has no header")
        if self._expectation.kind is TaskKind.TRAIN:
            self._check_norm()
            self._check_relative_norm()
        return self._metadata

    def _check_norm(self) -> None:
        """Checks dense updates only: factors have a norm that depends on the weights' values."""
        policy = self._expectation.specification.round_policy
        limit = policy.max_update_norm if policy.on_excess == "reject" else None
        if limit is None or self._encoding.name != DenseEncoding.name:
            return
        parameters = self._expectation.specification.parameters
        norm = self._squared_norms.bound(parameters, {})
        if norm > limit:
            raise MalformedUpdate(
                f"the update's norm is {norm:.6g}, over max_update_norm {limit:g}",
                member="max_update_norm",
                expected=limit,
                found=norm,
            )

    def _check_relative_norm(self) -> None:
        """Checks a bound that counts in full what cancels: float32 need not let it cancel."""
        specification, base_norms = self._expectation.specification, self._expectation.base_norms
        if base_norms is None:
            return
        limit = specification.round_policy.relative_limit(
            math.hypot(*base_norms.values()), specification.parameters.num_elements
        )
        bound = self._squared_norms.bound(specification.parameters, base_norms)
        if bound > limit:
            raise MalformedUpdate(
                f"the update's parts have norms of {bound:.6g} together, over {limit:.6g}, which "
                f"max_relative_norm {specification.round_policy.max_relative_norm:g} allows",
                member="max_relative_norm",
                expected=limit,
                found=bound,
            )

    def _check_header(self, header: file_header.Header) -> None:
        expectation = self._expectation
        metadata = _parse_metadata(header)
        _check_claims(metadata, expectation)
        if expectation.masked is not None:
            _check_masked(metadata, METRICS[expectation.masked.kind])
            check_tensors(header, expectation.masked.shapes)
        elif expectation.kind is TaskKind.EVALUATE:
            check_tensors(header, {})
        else:
            self._encoding = _find_encoding(metadata, expectation.specification)
            self._encoding.check_header(header, expectation.specification.parameters)
        self._metadata = metadata


def _header_bytes(specification: FederationSpecification) -> int:
    """What the header of this federation's updates may have: parsing it holds up everybody."""
    num_tensors = len(specification.parameters.tensors)
    most = _METADATA_BYTES + num_tensors * _WIRE_TENSORS_EACH * _HEADER_BYTES_EACH
    return min(most, file_header.MAX_HEADER_BYTES)


def check_size(num_bytes: int, limit: int) -> None:
    """Raises BodyTooLarge over the limit."""
    if num_bytes > limit:
        raise BodyTooLarge(f"an update may have at most {limit} bytes", expected=limit)


def _parse_metadata(header: file_header.Header) -> UpdateMetadata:
    text = header.metadata.get(UPDATE_METADATA_KEY)
    if text is None:
        raise MalformedUpdate(
            f"the metadata has no entry {UPDATE_METADATA_KEY}", member=UPDATE_METADATA_KEY
        )
    try:
        return UpdateMetadata.model_validate_json(text)
    except ValidationError as error:
        fault = first_fault(error)
        raise MalformedUpdate(f"metadata {fault}", member=fault.where) from error


def _check_masked(metadata: UpdateMetadata, summed: Sequence[str]) -> None:
    """A masked update says of its client at most the metrics that are summed, if a site lets it."""
    if (metadata.encoding, metadata.num_examples) != ("masked", 1):
        raise MalformedUpdate(
            "in this federation an update must have encoding masked and num_examples 1, not "
            f"{metadata.encoding} and {metadata.num_examples}",
            member="encoding",
            expected="masked",
            found=metadata.encoding,
        )
    if extra := sorted(set(metadata.metrics) - set(summed)):
        raise MalformedUpdate(
            f"a masked update may have no metric but {', '.join(summed)}, not {extra[0]}",
            member=f"metrics.{extra[0]}",
        )


def _find_encoding(metadata: UpdateMetadata, specification: FederationSpecification) -> Encoding:
    try:
        return encoding_for(specification.encoding, metadata.encoding)
    except ValueError as error:
        raise MalformedUpdate(str(error), member="encoding", found=metadata.encoding) from error


def _check_claims(metadata: UpdateMetadata, expectation: Expectation) -> None:
    specification = expectation.specification
    claims = {
        "federation": (metadata.federation, specification.name),
        "client": (metadata.client, expectation.client),
        "round_number": (metadata.round_number, expectation.round_number),
    }
    for member, (found, expected) in claims.items():
        if found != expected:
            raise MalformedUpdate(
                f"the update's {member} is {found}, not {expected}",
                member=member,
                expected=expected,
                found=found,
            )
    if metadata.base_version != expectation.base_version:
        raise StaleBaseVersion(
            f"the round starts from weights version {expectation.base_version}, "
            f"the update from version {metadata.base_version}",
            base_version=expectation.base_version,
            found=metadata.base_version,
        )
    if metadata.base_digest != expectation.base_digest:
        raise StaleBaseVersion(
            f"the round starts from weights {expectation.base_digest}, "
            f"the update from {metadata.base_digest} of the same version",
            base_digest=expectation.base_digest,
            found=metadata.base_digest,
        )
    limit = specification.round_policy.max_num_examples
    if not 1 <= metadata.num_examples <= limit:
        raise MalformedUpdate(
            f"num_examples is {metadata.num_examples}, not between 1 and {limit}",
            member="num_examples",
            expected=[1, limit],
            found=metadata.num_examples,
        )
