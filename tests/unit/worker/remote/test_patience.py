"""Trying again, and giving up."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import pytest
import tenacity

from shared.rest.problems import Problem, ProblemType
from tests.support.waiting import RecordedSleep
from worker.errors import FederationFinished, NoCoordinator, Refused, Unreachable
from worker.remote.patience import Patience

GIVE_UP_AFTER_SECONDS = 100.0


class Flaky:
    """A request that fails with each of ``failures`` in turn, then succeeds."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.attempts = 0

    async def __call__(self) -> str:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


class Down:
    """A request that nobody ever answers."""

    def __init__(self, retry_after_seconds: float | None = None) -> None:
        self.retry_after_seconds = retry_after_seconds
        self.attempts = 0

    async def __call__(self) -> str:
        self.attempts += 1
        raise Unreachable(f"attempt {self.attempts}", self.retry_after_seconds)


@pytest.fixture
def sleep(monkeypatch: pytest.MonkeyPatch) -> RecordedSleep:
    recorded = RecordedSleep()
    monkeypatch.setattr(tenacity, "time", SimpleNamespace(monotonic=recorded.monotonic))
    return recorded


@pytest.fixture
def patience(sleep: RecordedSleep) -> Patience:
    return Patience(GIVE_UP_AFTER_SECONDS, sleep)


async def test_an_answer_is_returned_without_a_wait(
    patience: Patience, sleep: RecordedSleep
) -> None:
    assert await patience.insist("asking", Flaky()) == "answer"
    assert sleep.waits == []


async def test_a_request_is_repeated_until_it_is_answered(
    patience: Patience, sleep: RecordedSleep
) -> None:
    request = Flaky(*(Unreachable("down") for _ in range(5)))
    assert await patience.insist("asking", request) == "answer"
    assert request.attempts == 6
    assert len(sleep.waits) == 5


async def test_waits_are_jittered_and_grow_to_a_bound(sleep: RecordedSleep) -> None:
    patience = Patience(1_000_000.0, sleep)
    for _ in range(20):
        await patience.insist("asking", Flaky(*(Unreachable("down") for _ in range(9))))
    by_attempt = [sleep.waits[attempt::9] for attempt in range(9)]
    for attempt, waits in enumerate(by_attempt):
        assert 0.0 <= min(waits) <= max(waits) <= min(30.0, 0.5 * 2**attempt)
        assert len(set(waits)) > 1
    assert max(by_attempt[-1]) > max(by_attempt[0])


@pytest.mark.parametrize("asked_seconds", [0.0, 7.0, 45.0])
async def test_a_wait_is_never_shorter_than_the_coordinator_asked_for(
    patience: Patience, sleep: RecordedSleep, asked_seconds: float
) -> None:
    await patience.insist("asking", Flaky(Unreachable("busy", asked_seconds)))
    assert asked_seconds <= sleep.waits[0] <= max(asked_seconds, 0.5)


@pytest.mark.parametrize(
    "refusal",
    [
        Refused(Problem.of(ProblemType.FORBIDDEN, "no")),
        FederationFinished(Problem.of(ProblemType.FEDERATION_FINISHED, "over")),
        ValueError("a mistake of ours"),
    ],
)
async def test_what_asking_again_would_not_help_is_raised_at_once(
    patience: Patience, sleep: RecordedSleep, refusal: Exception
) -> None:
    request = Flaky(refusal)
    with pytest.raises(type(refusal)) as raised:
        await patience.insist("asking", request)
    assert raised.value is refusal
    assert (request.attempts, sleep.waits) == (1, [])


async def test_a_refusal_after_a_failure_ends_the_waiting(
    patience: Patience, sleep: RecordedSleep
) -> None:
    request = Flaky(Unreachable("down"), Refused(Problem.of(ProblemType.ROUND_CLOSED, "late")))
    with pytest.raises(Refused, match="late"):
        await patience.insist("asking", request)
    assert len(sleep.waits) == 1


async def test_patience_ends_with_the_last_error(patience: Patience, sleep: RecordedSleep) -> None:
    request = Down()
    with pytest.raises(Unreachable, match=r"^attempt \d+$") as raised:
        await patience.insist("asking", request)
    assert str(raised.value) == f"attempt {request.attempts}"
    assert GIVE_UP_AFTER_SECONDS <= sleep.now <= GIVE_UP_AFTER_SECONDS + 30.0


async def test_the_bound_holds_for_each_request_on_its_own(
    patience: Patience, sleep: RecordedSleep
) -> None:
    sleep.now = 10 * GIVE_UP_AFTER_SECONDS
    assert await patience.insist("asking", Flaky(Unreachable("down"))) == "answer"


async def test_a_coordinator_that_asks_for_more_than_the_bound_is_given_up(
    patience: Patience, sleep: RecordedSleep
) -> None:
    with pytest.raises(Unreachable):
        await patience.insist("asking", Down(retry_after_seconds=50 * GIVE_UP_AFTER_SECONDS))
    assert sleep.now <= 2 * GIVE_UP_AFTER_SECONDS


async def test_cancelling_ends_the_wait() -> None:
    waiting = asyncio.Event()

    async def wait_for_ever(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    request = Down()
    patience = Patience(GIVE_UP_AFTER_SECONDS, wait_for_ever)
    insisting = asyncio.create_task(patience.insist("asking", request))
    await waiting.wait()
    insisting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await insisting
    assert request.attempts == 1


async def test_an_address_that_is_no_coordinators_is_not_asked_again(sleep: RecordedSleep) -> None:
    patience = Patience(GIVE_UP_AFTER_SECONDS, sleep, is_found=False)
    request = Flaky(Unreachable("down"), NoCoordinator("a page"), Unreachable("down"))
    with pytest.raises(NoCoordinator, match="a page"):
        await patience.insist("asking", request)
    assert request.attempts == 2


@pytest.mark.parametrize(
    "answer", [None, Refused(Problem.of(ProblemType.FORBIDDEN, "no"))], ids=["reply", "refusal"]
)
async def test_a_coordinator_that_was_found_is_waited_for_behind_a_page(
    sleep: RecordedSleep, answer: Refused | None
) -> None:
    patience = Patience(GIVE_UP_AFTER_SECONDS, sleep, is_found=False)
    with contextlib.suppress(Refused):
        await patience.insist("asking", Flaky(*([answer] if answer else [])))
    assert await patience.insist("asking", Flaky(NoCoordinator("a page"))) == "answer"
