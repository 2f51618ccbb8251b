"""A secure sum of many members through a real coordinator, with drop-outs in every phase."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from shared.tensors import codec
from tests.support.sum_members import SumMember, mean_change, protected_specification

_CONCURRENCY = 20
_TIMEOUT_SECONDS = 600.0
_LOOK_AGAIN_SECONDS = 0.1
_DROP_OUT_SHARE = 0.05


@dataclass
class RemoteCoordinator:
    """What a member asks of a coordinator, over HTTP."""

    http: httpx.AsyncClient
    admin: dict[str, str]
    credentials: dict[str, dict[str, str]] = field(default_factory=dict)

    async def poll(self, federation: str, client: str) -> httpx.Response:
        path = f"/v1/federations/{federation}/task"
        return await self.http.get(path, params={"wait": 30}, headers=self.credentials[client])

    async def put(self, task: dict[str, Any], body: bytes) -> httpx.Response:
        return await self.http.put(
            f"/v1/federations/{task['federation']}/rounds/{task['round_number']}"
            f"/updates/{task['client']}",
            params={"attempt": task["attempt"]},
            content=body,
            headers=self.credentials[task["client"]] | {"Content-Type": codec.MEDIA_TYPE},
        )

    async def call(self, method: str, path: str, **request: Any) -> Any:
        response = await self.http.request(method, path, **request)
        response.raise_for_status()
        return response.json() if response.content else None


@dataclass(frozen=True)
class SumLoad:
    """What one round of a secure sum took.

    Attributes:
        seconds: from the first join to the new version, members' own computing included.
        unmasking: seconds from the last share to the new version.
        bytes_each: of a member's exchange beside its update, sent and received.
        num_survivors: members whose updates are in the sum.
    """

    seconds: float
    unmasking: float
    bytes_each: float
    num_survivors: int


async def run_sum(url: str, admin_token: str, num_clients: int) -> SumLoad:
    """One round; the sum is checked.

    One member in twenty declines to join, one to send an update, and one says nothing after that.
    """
    admin = {"Authorization": f"Bearer {admin_token}"}
    limits = httpx.Limits(max_connections=2 * num_clients)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=_TIMEOUT_SECONDS) as http:
        return await _run(RemoteCoordinator(http, admin), num_clients)


async def _run(coordinator: RemoteCoordinator, num_clients: int) -> SumLoad:
    specification = protected_specification("sums", rounds=1, cohort_size=num_clients)
    await coordinator.call(
        "POST",
        "/v1/federations",
        content=specification.model_dump_json(),
        headers=coordinator.admin | {"Content-Type": "application/json"},
    )

    async def enrol(number: int) -> SumMember:
        name = f"client-{number:04d}"
        invited = await coordinator.call(
            "POST",
            "/v1/federations/sums/clients",
            json={"name": name},
            headers=coordinator.admin,
        )
        token = {"enrolment_token": invited["enrolment_token"]}
        enrolled = await coordinator.call("POST", "/v1/enrolments", json=token)
        coordinator.credentials[name] = {"Authorization": f"Bearer {enrolled['credential']}"}
        member = SumMember(coordinator, specification, name)
        (await member.show_card()).raise_for_status()
        return member

    members = await _gather(enrol, range(num_clients))
    await coordinator.call(
        "PATCH", "/v1/federations/sums", json={"action": "start"}, headers=coordinator.admin
    )
    bytes_moved = 0

    async def take_part(member: SumMember) -> str | None:
        """The kind of the task that it did; None if there was none."""
        nonlocal bytes_moved
        task = await member.poll()
        if task is None:
            return None
        body = member.make(task)
        bytes_moved += member.viewed_bytes + (0 if task.kind.value == "train" else len(body))
        response = await member.send(task, body)
        # Enough others have confirmed, or given shares, meanwhile.
        if response.status_code != 409:
            response.raise_for_status()
        return task.kind.value

    async def finish(member: SumMember) -> None:
        while await take_part(member) not in ("unmask", None):
            pass

    async def decline(member: SumMember) -> None:
        task = await member.task()
        await coordinator.call(
            "PUT",
            f"/v1/federations/sums/rounds/{task.round_number}/decline",
            params={"attempt": task.attempt},
            json={"reason": "dropped out"},
            headers=coordinator.credentials[member.name],
        )

    started = time.perf_counter()
    active = members
    for _ in ("join", "train"):
        leaving = _some_of(active)
        active = [one for one in active if one not in leaving]
        await _gather(decline, leaving)
        await _gather(take_part, active)
    survivors = active
    silent = _some_of(survivors)
    await _gather(finish, [one for one in survivors if one not in silent], len(survivors))
    last_share = time.perf_counter()
    round_: dict[str, Any] = {"closed_at": None, "phase": "open"}
    while round_["closed_at"] is None:
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        round_ = await coordinator.call(
            "GET", "/v1/federations/sums/rounds/1", headers=coordinator.admin
        )
    ended = time.perf_counter()
    if round_["phase"] != "committed":
        raise RuntimeError(f"the round {round_['phase']}: {round_['reason']}")
    await _check(coordinator, survivors, num_clients)
    return SumLoad(
        ended - started, ended - last_share, bytes_moved / len(survivors), len(survivors)
    )


async def _check(
    coordinator: RemoteCoordinator, survivors: list[SumMember], num_clients: int
) -> None:
    async def weights(version: int) -> np.ndarray:
        path = f"/v1/federations/sums/weights/{version}"
        response = await coordinator.http.get(path, headers=coordinator.admin)
        response.raise_for_status()
        return codec.decode(bytearray(response.content))[0]["hypernetwork.output.bias"]

    change = mean_change(survivors, 1, num_clients)
    expected = (await weights(0)).astype(np.float64) + change
    if not (await weights(1) == expected.astype(np.float32)).all():
        raise RuntimeError("the new weights are not the survivors' mean")


def _some_of(members: list[SumMember]) -> list[SumMember]:
    return members[:: round(1 / _DROP_OUT_SHARE)]


async def _gather(
    work: Callable[[Any], Awaitable[Any]], items: Sequence[Any], at_once: int = _CONCURRENCY
) -> list[Any]:
    turn = asyncio.Semaphore(at_once)

    async def one(item: Any) -> Any:
        async with turn:
            return await work(item)

    return await asyncio.gather(*(one(item) for item in items))
