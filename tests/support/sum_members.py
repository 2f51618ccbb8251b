"""Members of secure sums that speak to a coordinator in this process, and a federation for them."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import httpx
import numpy as np

from shared.federation.specification import FederationSpecification, document_digest
from shared.rest.schema import UPDATE_METADATA_KEY, Task
from shared.secure_sum.cards import SiteKeys
from shared.secure_sum.layout import SumLayout
from shared.secure_sum.masks import RingVector
from shared.secure_sum.messages import ExchangeView, Terms
from shared.tensors import codec
from tests.support.coordinator import RunningCoordinator
from worker.rounds.update_writer import serialise
from worker.secure_sum.member import Member
from worker.secure_sum.member_state import MemberState

MAX_EXAMPLES = 50


def protected_specification(
    name: str = "tiny", *, phase_seconds: float = 60.0, **policy: Any
) -> FederationSpecification:
    """A shared vector of 4 numbers whose changes are summed under masks."""
    return FederationSpecification.model_validate(
        {
            "name": name,
            "parameters": {
                "seed": 7,
                "tensors": [
                    {
                        "name": "hypernetwork.output.bias",
                        "shape": [4],
                        "initialisation": [{"rows": 4, "centre": 0.0, "bound": 0.5}],
                    }
                ],
            },
            "training": {
                "method": "hyperfl",
                "model": "tests.support.models:tiny",
                "image_shape": [1, 4, 4],
                "num_classes": 3,
                "hyperparameters": {"shared_part": "output-bias"},
            },
            "encoding": "dense",
            "protection": {"bits": 20, "bound": 1.0, "phase_seconds": phase_seconds},
            "round_policy": {
                "rounds": 2,
                "evaluate_final": False,
                "minimum_updates": 3,
                "max_examples_weight": MAX_EXAMPLES,
            }
            | policy,
        }
    )


class Speaks(Protocol):
    """What a member asks of a coordinator."""

    http: httpx.AsyncClient
    credentials: dict[str, dict[str, str]]

    async def poll(self, federation: str, client: str) -> httpx.Response: ...

    async def put(self, task: dict[str, Any], body: bytes) -> httpx.Response: ...


class SumMember:
    """One client with its keys; ``state`` is what it has saved."""

    def __init__(
        self, coordinator: Speaks, specification: FederationSpecification, name: str
    ) -> None:
        self.coordinator, self.specification, self.name = coordinator, specification, name
        self.state = MemberState()
        self.masked: dict[int, bytes] = {}
        """The update of each round, as it is sent."""
        self._renew(SiteKeys.generate())

    def _renew(self, keys: SiteKeys) -> None:
        digest = self._digest
        card = keys.card(self.specification.name, self.name)
        minimum = self.specification.round_policy.minimum_updates
        self.member = Member(keys, card, digest, minimum)

    @property
    def _digest(self) -> str:
        return document_digest(self.specification.document)

    async def show_card(self) -> httpx.Response:
        card = self.member.card
        return await self.coordinator.http.put(
            f"/v1/federations/{card.federation}/cards/{card.client}",
            json=card.model_dump(),
            headers=self.coordinator.credentials[self.name],
        )

    async def poll(self) -> Task | None:
        response = await self.coordinator.poll(self.specification.name, self.name)
        return Task.model_validate(response.json()) if response.status_code == 200 else None

    async def task(self) -> Task:
        task = await self.poll()
        assert task is not None, f"{self.name} has no task"
        return task

    def vector(self, round_number: int, kind: str, cohort_size: int) -> RingVector:
        """What this client adds to a round: the same whenever it is asked."""
        layout = SumLayout.of(self.specification, kind, cohort_size, round_number)
        generator = np.random.default_rng([sum(self.name.encode()), round_number])
        num_examples = int(generator.integers(1, MAX_EXAMPLES + 1)) if kind == "train" else 1
        change = generator.uniform(-0.5, 0.5, layout.num_values) * num_examples / MAX_EXAMPLES
        values, _ = layout.fixed_point.encode(change, generator.random(layout.num_values))
        accuracy = "accuracy_after" if kind == "train" else "accuracy"
        counts = layout.counts_of(num_examples, 0, {accuracy: float(generator.random())})
        return RingVector(counts, values, layout.fixed_point.bits)

    def make(self, task: Task) -> bytes:
        """The body that the task asks for: the state is saved first, as a worker does."""
        number = task.round_number
        assert task.exchange is not None
        view = task.exchange
        match task.kind.value:
            case "join":
                assert view.terms is not None
                self.state = self.member.join(self.state, view.terms)
                message = self.newest.join
            case "confirm":
                self.state = self.member.confirm(self.state, number, view.survivors)
                message = self.newest.confirmation
            case "unmask":
                self.state = self.member.unmask(self.state, number, view)
                message = self.newest.unmasking
            case kind:
                if number not in self.masked:
                    vector = self.vector(number, kind, len(self.newest.terms.cohort))
                    self.state = self.member.mask(self.state, number, view.joined, vector)
                    size = len(self.newest.terms.cohort)
                    layout = SumLayout.of(self.specification, kind, size, number)
                    wire = layout.to_wire(vector)
                    self.masked[number] = serialise(task, wire, "masked", 1, {})
                return self.masked[number]
        assert message is not None
        return message.model_dump_json().encode()

    @property
    def newest(self) -> Any:
        assert self.state.newest is not None
        return self.state.newest

    async def send(self, task: Task, body: bytes) -> httpx.Response:
        if task.kind.value in ("train", "evaluate"):
            return await self.coordinator.put(task.model_dump(mode="json"), body)
        return await self.coordinator.http.put(
            f"/v1/federations/{task.federation}/rounds/{task.round_number}"
            f"/exchange/{task.kind.value}",
            params={"attempt": task.attempt},
            content=body,
            headers=self.coordinator.credentials[self.name] | {"Content-Type": "application/json"},
        )

    async def work(self) -> httpx.Response:
        task = await self.task()
        response = await self.send(task, self.make(task))
        assert response.is_success, response.text
        return response


async def start_protected(
    coordinator: RunningCoordinator, specification: FederationSpecification, *names: str
) -> list[SumMember]:
    """A started federation whose members have shown their cards; its first round is open."""
    await coordinator.create(specification)
    await coordinator.enrol(specification.name, *names)
    members = [SumMember(coordinator, specification, name) for name in names]
    for one in members:
        response = await one.show_card()
        assert response.status_code == 200, response.text
    response = await coordinator.act(specification.name, "start")
    assert response.status_code == 200, response.text
    await coordinator.driver.step()
    return members


def mean_change(members: list[SumMember], round_number: int, cohort_size: int) -> np.ndarray:
    """Of members' updates, in the arithmetic of the sum: Σ integers, then one division."""
    layout = SumLayout.of(members[0].specification, "train", cohort_size, round_number)
    total = layout.zeros()
    for one in members:
        total.add(one.vector(round_number, "train", cohort_size))
    share = int(total.counts[0]) / MAX_EXAMPLES
    return layout.fixed_point.decode(total.values) / share


def metadata_of(body: bytes) -> str:
    """What a masked update says of itself."""
    return codec.decode(bytearray(body))[1][UPDATE_METADATA_KEY]


@cache
def example_messages() -> dict[str, Any]:
    """What a member of a cohort of three sends in each phase beside its update, as JSON."""
    specification, names = protected_specification(), ("a", "b", "c")
    digest = document_digest(specification.document)
    keys = {name: SiteKeys.generate() for name in names}
    cards = {name: keys[name].card(specification.name, name) for name in names}
    members = {name: Member(keys[name], cards[name], digest, 3) for name in names}
    terms = Terms(
        federation=specification.name,
        specification_digest=digest,
        round_number=1,
        kind="train",
        base_version=0,
        base_digest=digest,
        threshold=3,
        cohort=tuple(cards.values()),
    )
    states = {name: members[name].join(MemberState(), terms) for name in names}
    joins = {name: _newest(states[name]).join for name in names}
    joined = [join.member for join in joins.values()]
    vector = SumLayout.of(specification, "train", 3, 1).zeros()
    for name in names:
        states[name] = members[name].mask(states[name], 1, joined, vector)
        states[name] = members[name].confirm(states[name], 1, names)
    confirmations = {name: _newest(states[name]).confirmation for name in names}
    view = ExchangeView(
        survivors=names,
        sealed={name: join.shares["a"].sealed for name, join in joins.items()},
        confirmations={name: one.signature for name, one in confirmations.items()},
    )
    unmasking = _newest(members["a"].unmask(states["a"], 1, view)).unmasking
    return {
        "join": joins["a"].model_dump(mode="json"),
        "confirm": confirmations["a"].model_dump(mode="json"),
        "unmask": unmasking.model_dump(mode="json"),
    }


def _newest(state: MemberState) -> Any:
    assert state.newest is not None
    return state.newest
