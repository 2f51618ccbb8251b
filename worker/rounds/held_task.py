"""Work that a hosted client holds."""

from __future__ import annotations

from dataclasses import dataclass

from shared.rest.schema import Task
from worker.site.hosted_client import HostedClient


@dataclass(frozen=True)
class HeldTask:
    """A task and the hosted client that holds it."""

    client: HostedClient
    task: Task
