"""While a round is aggregated the coordinator answers: no computation runs on the event loop."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import pytest

from coordinator.aggregation import (
    factored_mean,
    robust_rules,
    row_blocks,
    weighted_mean,
)
from coordinator.aggregation.aggregate import aggregate
from coordinator.aggregation.round_updates import StackMemory
from coordinator.rounds.driver import Driver
from shared.tensors import factored_encoding, low_rank, norms, version_deltas
from tests.support.changes import CLIENTS, ENCODINGS, RULES, changes, send, specified
from tests.support.coordinator import RunningCoordinator, on_sqlite

pytestmark = pytest.mark.integration

COMPUTING = {
    module.__file__
    for module in (
        weighted_mean,
        factored_mean,
        robust_rules,
        row_blocks,
        factored_encoding,
        low_rank,
        norms,
        version_deltas,
    )
}
OF_NO_SIZE = {
    "__init__",
    "add_base",
    "add_examples",
    "clip_factor",
    "is_matrix",
    "num_columns",
    "num_rows",
    "row_blocks",
    "rows_at_a_time",
    "<genexpr>",
}
"""What looks at shapes and single numbers alone."""
VIEWS = {"reshape", "view", "__array__"}


@contextmanager
def computations_of_this_thread() -> Iterator[list[str]]:
    """What this thread computes on arrays meanwhile, in Python or by an array's method."""
    found: list[str] = []

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename in COMPUTING and code.co_name not in OF_NO_SIZE:
            found.append(code.co_name)
        if event == "c_call":
            owner = getattr(argument, "__self__", None)
            if isinstance(owner, np.ndarray) and argument.__name__ not in VIEWS:
                found.append(f"ndarray.{argument.__name__} in {code.co_name}")

    sys.setprofile(watch)
    try:
        yield found
    finally:
        sys.setprofile(None)


async def sent_round(
    coordinator: RunningCoordinator, encoding: str, rule: str, **policy: Any
) -> None:
    """A round with all updates but for its end."""
    specification = specified(encoding, RULES.get(rule, rule), minimum_updates=7, **policy)
    await coordinator.started(specification, *CLIENTS)
    for seed, client in enumerate(CLIENTS):
        _, wire = changes(specification, seed)
        assert (await send(coordinator, specification, client, wire)).status_code == 201


@on_sqlite
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rule", ["mean", *RULES])
async def test_nothing_is_computed_on_the_event_loop(
    coordinator: RunningCoordinator, encoding: str, rule: str
) -> None:
    memory = StackMemory(block_bytes=100)
    driver = Driver(coordinator.context, aggregate=partial(aggregate, memory=memory))
    await sent_round(coordinator, encoding, rule, max_update_norm=3.0)
    with computations_of_this_thread() as found:
        await driver.step()
    assert (await coordinator.show("tiny"))["weights_version"] == 1
    assert found == []


HELD: dict[str, tuple[Any, str]] = {
    "median": (robust_rules, "coordinate_median"),
    "trimmed-mean": (robust_rules, "trimmed_mean"),
    "multi-krum": (robust_rules, "choose_multi_krum"),
    "mean": (robust_rules, "mean"),
}


@on_sqlite
@pytest.mark.parametrize("rule", HELD)
async def test_polls_and_heartbeats_are_answered_while_a_rule_computes(
    coordinator: RunningCoordinator, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The computation waits for the answers, which do not come if it holds the event loop."""
    loop = asyncio.get_running_loop()
    entered, answered = asyncio.Event(), threading.Event()
    was_answered: list[bool] = []
    module, name = HELD[rule]
    compute: Callable[..., Any] = getattr(module, name)

    def wait_and_compute(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(entered.set)
        was_answered.append(answered.wait(timeout=30))
        return compute(*arguments)

    monkeypatch.setattr(module, name, wait_and_compute)
    await sent_round(coordinator, "factored", rule, max_update_norm=3.0)
    step = asyncio.create_task(coordinator.driver.step())
    await entered.wait()
    poll = await coordinator.poll("tiny", "a")
    heartbeat = await coordinator.http.post(
        "/v1/federations/tiny/rounds/1/heartbeat",
        json={"attempt": 1},
        headers=coordinator.credentials["b"],
    )
    assert (poll.status_code, heartbeat.status_code) == (204, 409)
    answered.set()
    await step
    assert was_answered
    assert all(was_answered)
    assert (await coordinator.show("tiny"))["weights_version"] == 1
