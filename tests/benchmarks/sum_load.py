"""A secure sum of many members through a real coordinator, with drop-outs in every phase.

Members are spread over as many processes as there are cores: what they compute is each site's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any

import httpx
import numpy as np

from shared.rest.schema import Task
from shared.secure_sum.messages import ExchangeView
from shared.tensors import codec
from tests.support.sum_members import SumMember, mean_change, protected_specification

_CONCURRENCY = 5
"""Of a process: they share its core."""
_TRIES = 5
_TIMEOUT_SECONDS = 3600.0
_NO_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None)
_LOOK_AGAIN_SECONDS = 0.5
_DROP_OUT_SHARE = 0.05
_EXCHANGE = b',"exchange":'


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
        bytes_each: of a survivor's exchange beside its update, sent and received.
        num_survivors: members whose updates are in the sum.
    """

    bytes_each: float
    num_survivors: int


class _LoadMember(SumMember):
    """One of many in a process, who are shown the same and keep it once."""

    viewed_bytes = 0
    """Of the exchange that its last task had."""

    async def poll(self) -> Task | None:
        """Its next task, however long that takes; None when the federation has ended."""
        while True:
            response = await self.coordinator.poll(self.specification.name, self.name)
            if response.status_code == 410:
                return None
            if response.status_code == 200:
                break
        task, _, exchange = response.content.partition(_EXCHANGE)
        self.viewed_bytes = len(exchange)
        return Task.model_validate_json(task + b"}").model_copy(
            update={"exchange": _read_view(exchange[:-1])}
        )


@lru_cache(maxsize=1)
def _read_view(exchange: bytes) -> ExchangeView:
    return ExchangeView.model_validate_json(exchange)


@dataclass(frozen=True)
class _Cast:
    """Who does what."""

    decline_to_join: list[_LoadMember]
    decline_to_send: list[_LoadMember]
    fall_silent: list[_LoadMember]
    stay: list[_LoadMember]

    @classmethod
    def of(cls, members: list[_LoadMember]) -> _Cast:
        groups = []
        for _ in range(3):
            leaving = members[:: round(1 / _DROP_OUT_SHARE)]
            members = [one for one in members if one not in leaving]
            groups.append(leaving)
        return cls(*groups, stay=members)

    @property
    def survivors(self) -> list[_LoadMember]:
        return [*self.fall_silent, *self.stay]

    def share(self, index: int, count: int) -> _Cast:
        """One part of them in ``count``."""
        return _Cast(
            *(
                group[index::count]
                for group in (
                    self.decline_to_join,
                    self.decline_to_send,
                    self.fall_silent,
                    self.stay,
                )
            )
        )


def run_sum(url: str, admin_token: str, num_clients: int) -> SumLoad:
    """One round; the sum is checked.

    One member in twenty declines to join, one to send an update, and one says nothing after that.
    """
    admin = {"Authorization": f"Bearer {admin_token}"}
    members = asyncio.run(_with_coordinator(url, admin, _enrol, num_clients))
    cast = _Cast.of(members)
    context = multiprocessing.get_context("fork")
    count = os.cpu_count() or 1
    parts = []
    for index in range(count):
        receiving, sending = context.Pipe(duplex=False)
        arguments = (url, cast.share(index, count), sending)
        process = context.Process(target=_take_part_in_process, args=arguments)
        process.start()
        sending.close()
        parts.append((process, receiving))
    try:
        total_bytes = sum(receiving.recv() for _, receiving in parts)
        asyncio.run(_with_coordinator(url, admin, _check, cast.survivors, num_clients))
    finally:
        for process, _ in parts:
            process.terminate()
            process.join()
    return SumLoad(total_bytes / len(cast.survivors), len(cast.survivors))


class _Patient(httpx.AsyncHTTPTransport):
    """Asks again where a connection ended: members compute for long while theirs are idle."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for _ in range(_TRIES - 1):
            with contextlib.suppress(httpx.NetworkError, httpx.RemoteProtocolError):
                return await super().handle_async_request(request)
        return await super().handle_async_request(request)


async def _with_coordinator(
    url: str, admin: dict[str, str], work: Callable[..., Awaitable[Any]], *arguments: Any
) -> Any:
    async with httpx.AsyncClient(
        base_url=url, transport=_Patient(limits=_NO_LIMITS), timeout=_TIMEOUT_SECONDS
    ) as http:
        return await work(RemoteCoordinator(http, admin), *arguments)


async def _enrol(coordinator: RemoteCoordinator, num_clients: int) -> list[_LoadMember]:
    """Members of a federation that has started, with their cards shown."""
    specification = protected_specification(
        "sums", rounds=1, cohort_size=num_clients, phase_seconds=_TIMEOUT_SECONDS
    )
    await coordinator.call(
        "POST",
        "/v1/federations",
        content=specification.model_dump_json(),
        headers=coordinator.admin | {"Content-Type": "application/json"},
    )

    async def enrol(number: int) -> _LoadMember:
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
        member = _LoadMember(coordinator, specification, name)
        (await member.show_card()).raise_for_status()
        path = f"/v1/federations/{specification.name}/task"
        authorization = coordinator.credentials[name]
        (
            await coordinator.http.get(path, params={"wait": 0}, headers=authorization)
        ).raise_for_status()
        return member

    members: list[_LoadMember] = await _gather(enrol, range(num_clients))
    await coordinator.call(
        "PATCH", "/v1/federations/sums", json={"action": "start"}, headers=coordinator.admin
    )
    return members


def _take_part_in_process(url: str, cast: _Cast, answer: Connection) -> None:
    answer.send(asyncio.run(_with_coordinator(url, {}, _take_part, cast)))


async def _take_part(coordinator: RemoteCoordinator, cast: _Cast) -> int:
    """The bytes of the survivors' exchanges."""
    for member in (*cast.decline_to_join, *cast.decline_to_send, *cast.survivors):
        coordinator.credentials |= member.coordinator.credentials
        member.coordinator = coordinator
    bytes_moved = 0

    async def work(member: _LoadMember) -> str | None:
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

    async def finish(member: _LoadMember) -> None:
        while await work(member) not in ("unmask", None):
            pass

    async def decline(member: _LoadMember) -> None:
        task = await member.task()
        await coordinator.call(
            "PUT",
            f"/v1/federations/sums/rounds/{task.round_number}/decline",
            params={"attempt": task.attempt},
            json={"reason": "dropped out"},
            headers=coordinator.credentials[member.name],
        )

    await _gather(decline, cast.decline_to_join)
    await _gather(work, [*cast.decline_to_send, *cast.survivors])
    await _gather(decline, cast.decline_to_send)
    await _gather(work, cast.survivors)
    await _gather(finish, cast.stay, len(cast.stay))
    return bytes_moved


async def _check(
    coordinator: RemoteCoordinator, survivors: list[_LoadMember], num_clients: int
) -> None:
    give_up_at = time.monotonic() + _TIMEOUT_SECONDS
    round_: dict[str, Any] = {"closed_at": None, "phase": "open"}
    while round_["closed_at"] is None and time.monotonic() < give_up_at:
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        (round_,) = await coordinator.call(
            "GET", "/v1/federations/sums/rounds", headers=coordinator.admin
        )
    if round_["phase"] != "committed":
        raise RuntimeError(f"the round {round_['phase']}: {round_['reason']}")

    async def weights(version: int) -> np.ndarray:
        path = f"/v1/federations/sums/weights/{version}"
        response = await coordinator.http.get(path, headers=coordinator.admin)
        response.raise_for_status()
        return codec.decode(bytearray(response.content))[0]["hypernetwork.output.bias"]

    change = mean_change(survivors, 1, num_clients)
    expected = (await weights(0)).astype(np.float64) + change
    if not (await weights(1) == expected.astype(np.float32)).all():
        raise RuntimeError("the new weights are not the survivors' mean")


async def _gather(
    work: Callable[[Any], Awaitable[Any]], items: Sequence[Any], at_once: int = _CONCURRENCY
) -> list[Any]:
    turn = asyncio.Semaphore(max(1, at_once))

    async def one(item: Any) -> Any:
        async with turn:
            return await work(item)

    return await asyncio.gather(*(one(item) for item in items))
