"""Rounds under everything that networks, clocks and crashes do, in an order that nobody chose.

Hypothesis draws the operations. Draws never depend on what happened before, since two replicas that
step at once need not do the same twice; an operation that makes no sense now does nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.simulation.site import (
    AGGREGATION_LEASE_SECONDS,
    CLIENTS_EACH,
    DEADLINE_SECONDS,
    DOCUMENTED,
    LEASE_SECONDS,
    NUM_REPLICAS,
    SPECIFICATIONS,
    Delivery,
    SimulatedClient,
    SimulatedSite,
)
from tests.support.postgres import create_database

pytestmark = pytest.mark.integration

_STEPS = 50
_POSTGRESQL_RUNS = 9
"""About two minutes."""
clients = st.integers(0, CLIENTS_EACH * len(SPECIFICATIONS) - 1)
replicas = st.integers(0, NUM_REPLICAS - 1)
federations = st.sampled_from([one.name for one in SPECIFICATIONS])
deliveries = st.integers(0, 3)


Deliver = Callable[[SimulatedClient, Delivery], Awaitable[object]]


class Tally:
    """What all runs of a machine came to, so that a test can tell that they were worth it."""

    def __init__(self) -> None:
        self.steps = 0
        self.answers: Counter[tuple[str, int, str]] = Counter()
        self.phases: Counter[tuple[str, str]] = Counter()


class Federations(RuleBasedStateMachine):
    """Two federations of three clients each, on two replicas."""

    tally = Tally()
    postgres_url: str | None = None
    """A server on which each run gets a database; without one it is on SQLite."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._folder = Path(tempfile.mkdtemp(prefix="hyperfl-simulation-"))
        database_url = f"sqlite:///{self._folder / 'hyperfl.db'}"
        if self.postgres_url is not None:
            database_url = create_database(self.postgres_url)
        self.site = SimulatedSite(database_url, self._folder)
        self._await(self.site.open())

    def teardown(self) -> None:
        self.tally.answers += self.site.answers
        self.tally.phases += Counter(
            (one.kind, one.phase) for one in self.site.closed_rounds.values()
        )
        self._await(self.site.close())
        self._runner.close()
        shutil.rmtree(self._folder)

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        self._runner.run(work)

    def _with_newest_work(self, client: int, replica: int, do: Deliver) -> None:
        """Asks for work and delivers it; if there is none, what was delivered last."""

        async def work() -> None:
            one = self.site.clients[client]
            delivery = await self.site.poll(one, replica)
            if delivery is not None or one.deliveries:
                await do(one, delivery or one.deliveries[-1])

        self._await(work())

    def _with_older_work(self, client: int, back: int, do: Deliver) -> None:
        """What a client was given ``back`` tasks ago, without asking anew."""

        async def work() -> None:
            one = self.site.clients[client]
            if back < len(one.deliveries):
                await do(one, one.deliveries[-1 - back])

        self._await(work())

    @invariant()
    def all_is_as_it_must_be(self) -> None:
        self.tally.steps += 1
        self._await(self.site.check())

    @rule(replica=replicas)
    def everybody_works(self, replica: int) -> None:
        async def work() -> None:
            for one in self.site.clients:
                delivery = await self.site.poll(one, replica)
                if delivery is not None:
                    await self.site.put(one, delivery, replica)
            await self.site.replicas[replica].driver.step()

        self._await(work())

    @rule(client=clients, back=deliveries, replica=replicas)
    def heartbeat_late(self, client: int, back: int, replica: int) -> None:
        self._with_older_work(
            client, back, lambda one, delivery: self.site.heartbeat(one, delivery, replica)
        )

    @rule(client=clients, replica=replicas)
    def poll_and_heartbeat(self, client: int, replica: int) -> None:
        self._with_newest_work(
            client, replica, lambda one, delivery: self.site.heartbeat(one, delivery, replica)
        )

    @rule(client=clients, replica=replicas)
    def upload(self, client: int, replica: int) -> None:
        self._with_newest_work(
            client, replica, lambda one, delivery: self.site.put(one, delivery, replica)
        )

    @rule(client=clients, back=deliveries, replica=replicas)
    def deliver_late(self, client: int, back: int, replica: int) -> None:
        self._with_older_work(
            client, back, lambda one, delivery: self.site.put(one, delivery, replica)
        )

    @rule(client=clients, replica=replicas)
    def upload_without_reading_the_answer(self, client: int, replica: int) -> None:
        async def do(one: SimulatedClient, delivery: Delivery) -> None:
            await self.site.put(one, delivery, replica, is_answer_read=False)

        self._with_newest_work(client, replica, do)

    @rule(client=clients, replica=replicas)
    def upload_twice(self, client: int, replica: int) -> None:
        async def do(one: SimulatedClient, delivery: Delivery) -> None:
            await self.site.put(one, delivery, replica)
            await self.site.put(one, delivery, 1 - replica)

        self._with_newest_work(client, replica, do)

    @rule(client=clients, replica=replicas)
    def upload_twice_at_once(self, client: int, replica: int) -> None:
        async def do(one: SimulatedClient, delivery: Delivery) -> None:
            answers = await asyncio.gather(
                self.site.put(one, delivery, replica), self.site.put(one, delivery, 1 - replica)
            )
            # Whoever was first: the same bytes are never refused for being there already.
            assert len({answer.is_success for answer in answers}) == 1

        self._with_newest_work(client, replica, do)

    @rule(client=clients, replica=replicas)
    def upload_after_another_attempt_was_leased(self, client: int, replica: int) -> None:
        async def do(one: SimulatedClient, delivery: Delivery) -> None:
            self.site.clock.advance(LEASE_SECONDS + 1)
            await self.site.poll(one, 1 - replica)
            await self.site.put(one, delivery, replica)

        self._with_newest_work(client, replica, do)

    @rule(client=clients, replica=replicas)
    def upload_after_the_round_closed(self, client: int, replica: int) -> None:
        async def do(one: SimulatedClient, delivery: Delivery) -> None:
            self.site.clock.advance(DEADLINE_SECONDS + 1)
            await self.site.replicas[1 - replica].driver.step()
            await self.site.put(one, delivery, replica)

        self._with_newest_work(client, replica, do)

    @rule(client=clients, replica=replicas)
    def upload_while_the_other_replica_steps(self, client: int, replica: int) -> None:
        async def do(one: SimulatedClient, delivery: Delivery) -> None:
            await asyncio.gather(
                self.site.put(one, delivery, replica),
                self.site.replicas[1 - replica].driver.step(),
            )

        self._with_newest_work(client, replica, do)

    @rule(client=clients, back=deliveries, replica=replicas)
    def upload_other_bytes(self, client: int, back: int, replica: int) -> None:
        async def do(one: SimulatedClient, delivery: Delivery) -> None:
            await self.site.put(one, self.site.other_update(one, delivery), replica)

        self._with_older_work(client, back, do)

    @rule(
        seconds=st.sampled_from(
            [1.0, LEASE_SECONDS + 1, AGGREGATION_LEASE_SECONDS + 1, DEADLINE_SECONDS + 1]
        )
    )
    def time_passes(self, seconds: float) -> None:
        self.site.clock.advance(seconds)

    @rule(replica=replicas)
    def step(self, replica: int) -> None:
        self._await(self.site.replicas[replica].driver.step())

    @rule()
    def both_step_at_once(self) -> None:
        async def work() -> None:
            await asyncio.gather(*(one.driver.step() for one in self.site.replicas))

        self._await(work())

    @rule(federation=federations, replica=replicas)
    def claim_and_die(self, federation: str, replica: int) -> None:
        self._await(self.site.claim_and_die(federation, replica))

    @rule(client=st.sampled_from([0, CLIENTS_EACH]), replica=replicas)
    def revoke(self, client: int, replica: int) -> None:
        self._await(self.site.revoke(self.site.clients[client], replica))

    @rule(client=st.sampled_from([0, CLIENTS_EACH]), replica=replicas)
    def revoke_during_an_upload(self, client: int, replica: int) -> None:
        self._with_newest_work(
            client,
            replica,
            lambda one, delivery: self.site.put_and_be_revoked(one, delivery, replica),
        )

    @rule(
        client=clients,
        replica=replicas,
        enrols=st.sampled_from([True, True, True, False]),
        lost_answers=st.sampled_from([0, 0, 1, 2]),
    )
    def invite_again(self, client: int, replica: int, enrols: bool, lost_answers: int) -> None:
        self._await(
            self.site.invite(
                self.site.clients[client], replica, enrols=enrols, lost_answers=lost_answers
            )
        )

    @rule(
        federation=federations, action=st.sampled_from(["resume", "resume", "pause"]), at=replicas
    )
    def pause_or_resume(self, federation: str, action: str, at: int) -> None:
        self._await(self.site.act(federation, action, at))

    @rule(replica=replicas)
    def restart(self, replica: int) -> None:
        self._await(self.site.restart(replica))


def _simulate(num_runs: int, postgres_url: str | None = None, seed: int | None = None) -> Tally:
    """Runs of the machine: drawn with ``seed``, or without one always the same."""

    class Machine(Federations):
        pass

    Machine.tally, Machine.postgres_url = Tally(), postgres_url
    with structlog.testing.capture_logs() as logs:
        run_state_machine_as_test(
            Machine if seed is None else hypothesis.seed(seed)(Machine),
            settings=settings(
                max_examples=num_runs,
                stateful_step_count=_STEPS,
                derandomize=seed is None,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    failures = [entry for entry in logs if entry["log_level"] == "error"]
    assert failures == [], "a driver's step failed"
    return Machine.tally


def test_rounds_hold_in_a_short_simulation() -> None:
    tally = _simulate(num_runs=4)
    assert tally.phases["train", "committed"] > 0


@pytest.mark.slow
def test_rounds_hold_whatever_happens() -> None:
    tally = _simulate(num_runs=45)
    assert tally.steps >= 2000
    missing = {
        (what, *answer) for what, answers in DOCUMENTED.items() for answer in answers
    } - tally.answers.keys()
    assert sorted(missing) == [], "the simulation never came to these answers"
    for kind in ("train", "evaluate"):
        assert tally.phases[kind, "committed"] > 0
    assert tally.phases["train", "failed"] > 0


@pytest.mark.slow
def test_rounds_hold_on_postgresql_whatever_is_drawn(
    postgres_url: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    given: str | None = request.config.getoption("--hypothesis-seed")
    seed = secrets.randbits(32) if given is None else int(given)
    how = f"the same draws again: --hypothesis-seed={seed}"
    with capsys.disabled():
        print(f"\n{how}")
    print(how)  # and with a failure's report
    tally = _simulate(_POSTGRESQL_RUNS, postgres_url, seed)
    assert tally.phases["train", "committed"] > 0
