"""What the update of one assignment must be: looked up before its first byte is read."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.context import Context
from coordinator.errors import DamagedBlobError
from coordinator.operations.update_check import Expectation
from coordinator.store.tables import FederationRow, RoundRow, WeightsRow
from shared.federation.specification import FederationSpecification
from shared.rest.schema import TaskKind
from shared.secure_sum.layout import SumLayout
from shared.tensors import file_header


async def expect_update(
    context: Context, federation: FederationRow, round_: RoundRow, base: WeightsRow, client: str
) -> Expectation:
    """What a client's update of a round that starts from ``base`` must be."""
    specification = context.specification(federation)
    kind = TaskKind(round_.kind)
    data_bytes = specification.parameters.size_bytes if kind is TaskKind.TRAIN else 0
    masked = None
    if round_.is_protected:
        terms = await context.exchange_views.terms(context.database, round_)
        masked = SumLayout.of(specification, kind.value, len(terms.cohort), round_.number)
    return Expectation(
        specification=specification,
        client=client,
        round_number=round_.number,
        base_version=round_.base_version,
        base_digest=base.digest,
        kind=kind,
        masked=masked,
        max_bytes=min(data_bytes + file_header.MAX_HEADER_BYTES, context.settings.max_update_bytes),
        base_norms=None
        if masked is not None
        else await _base_norms(context, base, specification, kind),
    )


async def _base_norms(
    context: Context, base: WeightsRow, specification: FederationSpecification, kind: TaskKind
) -> Mapping[str, float] | None:
    if kind is not TaskKind.TRAIN or specification.round_policy.max_relative_norm is None:
        return None
    try:
        return await context.weight_norms.of(context.blobs, base)
    except DamagedBlobError:
        return None  # the round's aggregation finds that too, and fails with the reason
