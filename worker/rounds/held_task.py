"""Work that a client holds."""

from __future__ import annotations

from dataclasses import dataclass

from shared.rest.schema import Task
from worker.site.enrolled_client import EnrolledClient
from worker.site.hosted_client import HostedClient


@dataclass(frozen=True)
class LeasedTask:
    """A task and the client that holds it."""

    client: EnrolledClient
    task: Task


@dataclass(frozen=True)
class HeldTask(LeasedTask):
    """The same of a client that this worker trains."""

    client: HostedClient
