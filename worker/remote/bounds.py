"""A site's own bounds on what a coordinator sends and asks for, whoever it is."""

from __future__ import annotations

from shared.federation.protection_plan import LARGEST_COHORT
from shared.federation.specification import ParameterSpecification
from shared.tensors import file_header

JSON_BYTES = 64 << 10
"""Of an answer in JSON, and of a problem document."""

EXCHANGE_BYTES = 1024 * LARGEST_COHORT + JSON_BYTES
"""Of what a secure sum's members are shown: their cards, of at most 400 bytes each, or less."""

FEDERATION_BYTES = (32 << 20) + JSON_BYTES
"""Of a federation as it is shown: with its specification, which may have 32 MiB."""

LONGEST_RETRY_AFTER_SECONDS = 300.0
"""A coordinator that is away for longer is asked in vain now and then."""

_LEAST_HEARTBEAT_SECONDS, _LONGEST_HEARTBEAT_SECONDS = 1.0, 600.0


def weights_bytes(parameters: ParameterSpecification) -> int:
    """Of a file with a version of the weights, or with the deltas sent because they are fewer."""
    return file_header.LENGTH_BYTES + file_header.MAX_HEADER_BYTES + parameters.size_bytes


def retry_after_seconds(header: str) -> float | None:
    """The wait that a ``Retry-After`` asks for, as far as it is granted; None if it asks none."""
    if not (header.isascii() and header.isdigit()):
        return None
    return min(float(header), LONGEST_RETRY_AFTER_SECONDS)


def heartbeat_seconds(lease_seconds: float) -> float:
    """The wait between two heartbeats: a third of the lease, however short or long that is."""
    return min(max(lease_seconds / 3, _LEAST_HEARTBEAT_SECONDS), _LONGEST_HEARTBEAT_SECONDS)
