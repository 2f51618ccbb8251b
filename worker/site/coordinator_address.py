"""Where a site's configuration says that its coordinator is, and how it may be reached."""

from __future__ import annotations

from worker.remote.connection import CoordinatorAddress, Transport
from worker.settings import WorkerConfig, WorkerSettings


def coordinator_address(
    config: WorkerConfig, settings: WorkerSettings, transport: Transport | None = None
) -> CoordinatorAddress:
    """The address with the site's bounds; ``transport`` replaces the network in tests."""
    return CoordinatorAddress(
        url=config.coordinator_url,
        request_timeout_seconds=settings.request_timeout_seconds,
        transfer_seconds=settings.transfer_seconds,
        least_bytes_per_second=settings.least_bytes_per_second,
        ca_file=config.ca_file,
        transport=transport,
    )
