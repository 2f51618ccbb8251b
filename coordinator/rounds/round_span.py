"""The first span of a round's trace, sent once the round is over."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from coordinator.store.tables import FederationRow, RoundRow
from shared.tracing.spans import closed_round


def round_span(federation: FederationRow, round_: RoundRow) -> Callable[..., None]:
    """What sends it, with ``closed_at`` and ``has_failed``. Rows are read now, and not after."""
    return partial(
        closed_round,
        federation.specification_digest,
        round_.number,
        round_.opened_at,
        federation=federation.name,
        round=round_.number,
        kind=round_.kind,
        version=round_.base_version,
    )
