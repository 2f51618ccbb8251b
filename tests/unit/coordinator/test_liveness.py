"""A coordinator whose driver has ended says so and ends too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from coordinator.app import create_app
from coordinator.database.migrate import migrate
from coordinator.errors import DriverSilent, TaskEnded
from coordinator.liveness import Collapse, Pulse
from coordinator.serving.server import bind, serve
from coordinator.settings import CoordinatorSettings


def test_a_pulse_is_missed_before_the_first_beat_and_after_a_long_silence() -> None:
    now = 0.0
    pulse = Pulse(longest_silence_seconds=10.0, monotonic=lambda: now)
    with pytest.raises(DriverSilent, match="has not started"):
        pulse.check()
    pulse.beat()
    now = 10.0
    pulse.check()
    now = 11.0
    with pytest.raises(DriverSilent, match="nothing for 11 s"):
        pulse.check()


async def _fail() -> None:
    raise ZeroDivisionError("by chance")


async def _return() -> None:
    return


async def _last() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (_fail, "the driver ended: ZeroDivisionError: by chance"),
        (_return, "the driver ended: without an error"),
    ],
)
async def test_the_end_of_a_watched_task_has_a_reason(
    work: Callable[[], asyncio.Future[None]], reason: str
) -> None:
    collapse = Collapse()
    task = asyncio.ensure_future(work())
    task.set_name("driver")  # type: ignore[attr-defined]
    collapse.watch(task)  # type: ignore[arg-type]
    with capture_logs() as logs:
        await asyncio.wait([task])
        await asyncio.sleep(0)
    assert collapse.reason == reason
    assert [line["reason"] for line in logs if line["event"] == "process ends"] == [reason]


async def test_a_task_that_is_cancelled_is_no_collapse() -> None:
    collapse = Collapse()
    task = asyncio.create_task(_last())
    collapse.watch(task)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert collapse.reason is None


def test_a_server_ends_with_its_driver(tmp_path: Path) -> None:
    settings = CoordinatorSettings(data_dir=tmp_path, port=0)
    migrate(settings.effective_database_url)
    asked = 0

    def broken_clock() -> datetime:
        nonlocal asked
        asked += 1
        if asked > 20:
            raise ZeroDivisionError("the clock stopped")
        return datetime.now(UTC)

    app = create_app(settings.model_copy(update={"tick_seconds": 0.01}), broken_clock)
    with pytest.raises(TaskEnded, match="the driver ended: ZeroDivisionError: the clock stopped"):
        serve(app, settings, bind(settings))
