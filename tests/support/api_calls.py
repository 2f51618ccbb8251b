"""Every call of the worker's API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from shared.rest.schema import Task
from tests.support.fake_coordinator import enrolment_token
from worker.remote.coordinator_api import CoordinatorApi

FEDERATION = "tiny"
MAX_BYTES = 4 << 20
Call = Callable[[CoordinatorApi], Awaitable[object]]


def every_call(task: Task, folder: Path) -> dict[str, Call]:
    return {
        "enrol": lambda client: client.enrol(enrolment_token("alice"), FEDERATION, "alice"),
        "fetch_federation": lambda client: client.fetch_federation(FEDERATION),
        "next_task": lambda client: client.next_task(FEDERATION, 0.0),
        "heartbeat": lambda client: client.heartbeat(task),
        "put_update": lambda client: client.put_update(task, b"update"),
        "fetch_weights": lambda client: client.fetch_weights(
            FEDERATION, 1, folder / "weights", max_bytes=MAX_BYTES
        ),
    }


CALLS = ("enrol", "fetch_federation", "next_task", "heartbeat", "put_update", "fetch_weights")
