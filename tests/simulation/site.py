"""Two coordinators on one database, and clients that do with them what networks do."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from coordinator.rounds.aggregation_lease import AggregationLease
from coordinator.rules.verdicts import Verdict, judge
from coordinator.store import federations as federation_store
from coordinator.store import rounds as round_store
from shared.federation.specification import FederationSpecification
from shared.rest.problems import ProblemType
from tests.support.clock import ManualClock
from tests.support.coordinator import RunningCoordinator, running_coordinator
from tests.support.ledger import Ledger, RecordedRound, read_ledger
from tests.support.oracle import Oracle, SentUpdate, check_versions
from tests.support.specifications import tiny_specification
from tests.support.updates import random_deltas, update_bytes

NUM_REPLICAS = 2
CLIENTS_EACH = 3
LEASE_SECONDS, DEADLINE_SECONDS, AGGREGATION_LEASE_SECONDS = 30.0, 100.0, 60.0
GRACE_SECONDS = 50.0
SPECIFICATIONS = (
    tiny_specification(
        "everybody",
        rounds=2,
        minimum_updates=1,
        lease_seconds=LEASE_SECONDS,
        deadline_seconds=DEADLINE_SECONDS,
        grace_seconds=GRACE_SECONDS,
        evaluate_final=True,
    ),
    tiny_specification(
        "some",
        rounds=20,
        cohort_size=2,
        minimum_updates=2,
        lease_seconds=LEASE_SECONDS,
        deadline_seconds=DEADLINE_SECONDS,
        evaluate_final=False,
    ),
)
_LIVE = ("open", "aggregating")
_SHUT_OUT = {(401, ProblemType.UNAUTHENTICATED.urn)}
_VOID = {(409, ProblemType.ROUND_CLOSED.urn), (409, ProblemType.LEASE_LOST.urn)}
DOCUMENTED: dict[str, set[tuple[int, str]]] = {
    "poll": {(200, ""), (204, ""), (410, ProblemType.FEDERATION_FINISHED.urn)} | _SHUT_OUT,
    "heartbeat": {(200, "")} | _VOID | _SHUT_OUT,
    "update": {(200, ""), (201, ""), (409, ProblemType.UPDATE_CONFLICT.urn)} | _VOID | _SHUT_OUT,
    "action": {(200, ""), (409, ProblemType.ILLEGAL_TRANSITION.urn)},
    "invitation": {(201, "")},  # no federation fails here, and a finished one takes late clients
    "enrolment": {(201, "")},
    "revocation": {(204, "")},
    "weights": {(200, "")},
}
"""Every answer that the protocol knows for what the clients here ask: (status, problem type)."""


@dataclass(frozen=True)
class Delivery:
    """A body with the task that it was made for."""

    task: dict[str, Any]
    body: bytes


@dataclass
class SimulatedClient:
    """What a client remembers: every task it was ever given, with its update."""

    federation: str
    name: str
    is_enrolled: bool = True
    deliveries: list[Delivery] = field(default_factory=list)
    receipts: dict[int, tuple[bytes, dict[str, Any]]] = field(default_factory=dict)
    """By round: the body that was acknowledged, and its receipt."""


class SimulatedSite:
    """Federations of a few clients; every answer is checked against what is documented."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.answers: Counter[tuple[str, int, str]] = Counter()
        self.clock = ManualClock()
        self.replicas: list[RunningCoordinator] = []
        self.clients: list[SimulatedClient] = []
        self.oracles = {one.name: Oracle(one) for one in SPECIFICATIONS}
        self.closed_rounds: dict[tuple[str, int], RecordedRound] = {}
        self._database_url = database_url
        self._folder = folder
        self._stacks = [AsyncExitStack() for _ in range(NUM_REPLICAS)]
        self._specifications = {one.name: one for one in SPECIFICATIONS}

    async def open(self) -> None:
        """Starts the replicas, and federations with their clients."""
        for index in range(NUM_REPLICAS):
            self.replicas.append(await self._start(index))
        first = self.replicas[0]
        for specification in SPECIFICATIONS:
            names = [f"{specification.name}-{number}" for number in range(CLIENTS_EACH)]
            await first.started(specification, *names)
            self.clients += [SimulatedClient(specification.name, name) for name in names]
        for replica in self.replicas[1:]:
            replica.credentials = first.credentials

    async def close(self) -> None:
        """Stops the replicas."""
        for stack in self._stacks:
            await stack.aclose()

    async def _start(self, index: int) -> RunningCoordinator:
        return await self._stacks[index].enter_async_context(
            running_coordinator(
                self._database_url,
                self._folder,
                self.clock,
                aggregation_lease_seconds=AGGREGATION_LEASE_SECONDS,
            )
        )

    async def restart(self, index: int) -> None:
        """A new application and driver on the same database."""
        credentials = self.replicas[index].credentials
        await self._stacks[index].aclose()
        self.replicas[index] = await self._start(index)
        self.replicas[index].credentials = credentials

    def _check(self, what: str, response: httpx.Response) -> httpx.Response:
        problem = response.json()["type"] if response.is_error else ""
        answer = (response.status_code, problem)
        assert answer in DOCUMENTED[what], f"{what} was answered {answer}: {response.text}"
        self.answers[what, *answer] += 1
        return response

    async def poll(self, client: SimulatedClient, replica: int) -> Delivery | None:
        """Asks for work; makes its update, always the same for the same round."""
        response = self._check(
            "poll", await self.replicas[replica].poll(client.federation, client.name)
        )
        assert (response.status_code == 401) == (not client.is_enrolled)
        if response.status_code != 200:
            return None
        task = response.json()
        delivery = Delivery(task, self._make_update(client, task, variant=0))
        client.deliveries.append(delivery)
        return delivery

    def _make_update(self, client: SimulatedClient, task: dict[str, Any], variant: int) -> bytes:
        specification: FederationSpecification = self._specifications[client.federation]
        number = self.clients.index(client)
        num_examples = 1 + (7 * number + 3 * task["round_number"] + variant) % 50
        deltas = random_deltas(specification, seed=1000 * task["round_number"] + 10 * number)
        body = update_bytes(specification, task, deltas, num_examples=num_examples)
        self.oracles[client.federation].note_sent(
            body, SentUpdate(client.name, num_examples, deltas)
        )
        return body

    def other_update(self, client: SimulatedClient, delivery: Delivery) -> Delivery:
        """Another update for the same task, as of a client that lost its state."""
        return Delivery(delivery.task, self._make_update(client, delivery.task, variant=1))

    async def put(
        self,
        client: SimulatedClient,
        delivery: Delivery,
        replica: int,
        *,
        is_answer_read: bool = True,
    ) -> httpx.Response:
        """Delivers an update; what was acknowledged before decides the answer."""
        number = delivery.task["round_number"]
        known = client.receipts.get(number)
        response = self._check(
            "update", await self.replicas[replica].put(delivery.task, delivery.body)
        )
        assert (response.status_code == 401) == (not client.is_enrolled)
        if not client.is_enrolled:
            return response
        if known is not None and known[0] == delivery.body:
            assert (response.status_code, response.json()) == (200, known[1])
        elif known is not None:
            assert response.json()["type"] == ProblemType.UPDATE_CONFLICT.urn
        elif response.is_success and is_answer_read:
            client.receipts[number] = (delivery.body, response.json())
        return response

    async def heartbeat(self, client: SimulatedClient, delivery: Delivery, replica: int) -> None:
        task = delivery.task
        at = self.replicas[replica]
        response = await at.http.post(
            f"/v1/federations/{client.federation}/rounds/{task['round_number']}/heartbeat",
            json={"attempt": task["attempt"]},
            headers=at.credentials[client.name],
        )
        self._check("heartbeat", response)

    async def revoke(self, client: SimulatedClient, replica: int) -> None:
        at = self.replicas[replica]
        path = f"/v1/federations/{client.federation}/clients/{client.name}"
        self._check("revocation", await at.http.delete(path, headers=at.admin))
        client.is_enrolled = False

    async def put_and_be_revoked(
        self, client: SimulatedClient, delivery: Delivery, replica: int
    ) -> None:
        """Delivers an update, and is revoked at the other replica before its last byte is sent."""

        async def in_pieces() -> AsyncIterator[bytes]:
            yield delivery.body[:-1]
            await self.revoke(client, 1 - replica)
            yield delivery.body[-1:]

        response = self._check(
            "update", await self.replicas[replica].put(delivery.task, in_pieces())
        )
        # Refused before it was read to its end, or for the revocation.
        assert not response.is_success
        assert (response.status_code == 401) == (not client.is_enrolled)

    async def invite(
        self, client: SimulatedClient, replica: int, *, enrols: bool, lost_answers: int
    ) -> None:
        """Invites a client anew, known or revoked; its old credential ends.

        Of its enrolment so many answers are lost before one arrives.
        """
        at = self.replicas[replica]
        path = f"/v1/federations/{client.federation}/clients"
        invited = self._check(
            "invitation", await at.http.post(path, json={"name": client.name}, headers=at.admin)
        )
        if invited.is_error:
            return
        client.is_enrolled = False
        if enrols:
            token = {"enrolment_token": invited.json()["enrolment_token"]}
            for _ in range(lost_answers):
                self._check("enrolment", await at.http.post("/v1/enrolments", json=token))
            enrolled = self._check("enrolment", await at.http.post("/v1/enrolments", json=token))
            credential = enrolled.json()["credential"]
            at.credentials[client.name] = {"Authorization": f"Bearer {credential}"}
            client.is_enrolled = True

    async def act(self, federation: str, action: str, replica: int) -> None:
        self._check("action", await self.replicas[replica].act(federation, action))

    async def claim_and_die(self, federation: str, replica: int) -> None:
        """A coordinator that takes an aggregation and is never heard of again."""
        at = self.replicas[replica]
        async with at.context.database.reading() as session:
            row = await federation_store.find_by_name(session, federation)
            live = await round_store.find_live(session, row.id)
            if live is None:
                return
            facts = await round_store.facts(session, live)
        policy = self._specifications[federation].round_policy
        if judge(facts, policy, self.clock())[0] is Verdict.AGGREGATE:
            await AggregationLease(at.context, live).claim()

    async def check(self) -> None:
        """Everything that must hold whatever happened."""
        for specification in SPECIFICATIONS:
            ledger = await read_ledger(self.replicas[0].context.database, specification.name)
            self._check_rounds(specification.name, ledger)
            await self._check_weights(specification.name, ledger)

    def _check_rounds(self, federation: str, ledger: Ledger) -> None:
        live = [one for one in ledger.rounds if one.phase in _LIVE]
        assert live == [] or live == [ledger.rounds[-1]]
        for one in ledger.rounds:
            clients = [client for client, _ in one.updates]
            assert len(clients) == len(set(clients)), "a client counts at most once"
            if one.phase not in _LIVE:
                before = self.closed_rounds.setdefault((federation, one.number), one)
                assert before == one, "a closed round never changes"
        recorded = {one.number: dict(one.updates) for one in ledger.rounds}
        for client in self.clients:
            if client.federation == federation:
                for number, (_, receipt) in client.receipts.items():
                    assert recorded[number][client.name] == receipt["digest"]

    async def _check_weights(self, federation: str, ledger: Ledger) -> None:
        oracle = self.oracles[federation]
        checked = oracle.newest_version
        check_versions(ledger, oracle)
        minimum = self._specifications[federation].round_policy.minimum_updates
        for one in ledger.rounds:
            if one.new_version is not None:
                assert len(one.updates) >= minimum
        for version in range(checked + 1, oracle.newest_version + 1):
            await self._check_served(federation, version)

    async def _check_served(self, federation: str, version: int) -> None:
        at = self.replicas[-1]
        path = f"/v1/federations/{federation}/weights/{version}"
        served = self._check("weights", await at.http.get(path, headers=at.admin))
        assert self.oracles[federation].is_version(version, served.content)
