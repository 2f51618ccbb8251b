"""Many clients without training: each enrols, takes its work and sends an update of rank two."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

import httpx
import numpy as np

from shared.federation.plans import TrainingPlan
from shared.federation.specification import FederationSpecification, RoundPolicy
from shared.rest.schema import UpdateMetadata
from shared.tensors import codec
from worker.methods.hypernetwork.weights import OUTPUT_BIAS, OUTPUT_WEIGHT, TRUNK_BIAS, TRUNK_WEIGHT
from worker.operations.specification import build_specification

CONCURRENCY = 20
_RANK, _HIDDEN, _EMBEDDING = 2, 128, 64
_POLL_SECONDS = 0.05
_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Load:
    """What one round of many clients took, in seconds."""

    sending: float
    """From the first poll to the last receipt."""
    aggregating: float
    """From the last receipt to the new version."""
    update: float
    """Median of encoding, sending and recording one update, nobody else sending."""
    update_bytes: int


def cnn_mnist_specification(name: str, num_clients: int) -> FederationSpecification:
    """The paper's hypernetwork of ``cnn-mnist``; one round with everybody."""
    plan = {"hidden_size": _HIDDEN, "embedding_size": _EMBEDDING}
    training = TrainingPlan(
        method="hyperfl",
        model="cnn-mnist",
        image_shape=(1, 28, 28),
        num_classes=10,
        hyperparameters=plan,
    )
    policy = RoundPolicy(rounds=1, cohort_size=num_clients, evaluate_final=False)
    return build_specification(
        name,
        method=training.method,
        model=training.model,
        image_shape=training.image_shape,
        num_classes=training.num_classes,
        hyperparameters=dict(training.hyperparameters),
        round_policy=policy,
        encoding=FederationSpecification.model_fields["encoding"].default,
        seed=1,
    )


class _Factors:
    """Factors in half precision, of which every client sends a mixture of its own."""

    def __init__(self, num_generated: int) -> None:
        generator = np.random.default_rng(1)
        self._left = generator.uniform(-1, 1, (_RANK, num_generated)).astype(np.float16)
        self._right = generator.uniform(-1e-3, 1e-3, (_RANK, _HIDDEN)).astype(np.float32)
        self._bias = generator.uniform(-1, 1, num_generated).astype(np.float16)

    def encode(self, task: dict[str, Any]) -> bytes:
        metadata = UpdateMetadata(
            federation=task["federation"],
            client=task["client"],
            round_number=task["round_number"],
            base_version=task["base_version"],
            base_digest=task["base_digest"],
            encoding="factored",
            num_examples=600,
            metrics={},
        )
        scale = np.float32(1e-3)
        wire = {
            f"{OUTPUT_WEIGHT}/left": self._left,
            f"{OUTPUT_WEIGHT}/right": self._right * np.float32(1 + hash(task["client"]) % 7),
            f"{OUTPUT_WEIGHT}/base_scale": np.array(-1e-3, np.float32),
            OUTPUT_BIAS: self._bias,
            f"{OUTPUT_BIAS}/scale": np.array(scale),
            TRUNK_WEIGHT: np.full((_HIDDEN, _EMBEDDING), 0.5, np.float16),
            f"{TRUNK_WEIGHT}/scale": np.array(scale),
            TRUNK_BIAS: np.full(_HIDDEN, 0.5, np.float16),
            f"{TRUNK_BIAS}/scale": np.array(scale),
        }
        return codec.encode(wire, {"hyperfl": metadata.model_dump_json()})


async def run_load(url: str, admin_token: str, name: str, num_clients: int) -> Load:
    """One federation, one round; the coordinator must be otherwise idle."""
    admin = {"Authorization": f"Bearer {admin_token}"}
    specification = cnn_mnist_specification(name, num_clients)
    factors = _Factors(specification.parameters.by_name[OUTPUT_BIAS].num_elements)
    limits = httpx.Limits(max_connections=CONCURRENCY)
    path = f"/v1/federations/{name}"
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=_TIMEOUT_SECONDS) as http:

        async def call(method: str, where: str, **request: Any) -> httpx.Response:
            response = await http.request(method, where, **request)
            response.raise_for_status()
            return response

        async def enrol(number: int) -> dict[str, str]:
            invited = await call(
                "POST", f"{path}/clients", json={"name": f"client-{number:04d}"}, headers=admin
            )
            token = {"enrolment_token": invited.json()["enrolment_token"]}
            enrolled = await call("POST", "/v1/enrolments", json=token)
            credential = {"Authorization": f"Bearer {enrolled.json()['credential']}"}
            await call("GET", f"{path}/task", params={"wait": 0}, headers=credential)
            return credential

        async def take(credential: dict[str, str]) -> dict[str, Any]:
            polled = await call("GET", f"{path}/task", params={"wait": 30}, headers=credential)
            task: dict[str, Any] = polled.json()
            return task

        async def send(credential: dict[str, str], task: dict[str, Any]) -> tuple[float, int]:
            started = time.perf_counter()
            content = factors.encode(task)
            await call(
                "PUT",
                f"{path}/rounds/{task['round_number']}/updates/{task['client']}",
                params={"attempt": task["attempt"]},
                content=content,
                headers=credential | {"Content-Type": codec.MEDIA_TYPE},
            )
            return time.perf_counter() - started, len(content)

        await call(
            "POST",
            "/v1/federations",
            content=specification.model_dump_json(),
            headers=admin | {"Content-Type": "application/json"},
        )
        credentials = await _gather(enrol, range(num_clients))
        await call("PATCH", path, json={"action": "start"}, headers=admin)
        await take(credentials[0])  # the round is open

        async def work(credential: dict[str, str]) -> None:
            await send(credential, await take(credential))

        alone = [await send(one, await take(one)) for one in credentials[:10]]
        started = time.perf_counter()
        await _gather(work, credentials[10:])
        sending = time.perf_counter() - started
        round_: dict[str, Any] = {"closed_at": None}
        while round_["closed_at"] is None:
            await asyncio.sleep(_POLL_SECONDS)
            round_ = (await call("GET", f"{path}/rounds/1", headers=admin)).json()
    if round_["phase"] != "committed" or round_["updates_received"] != num_clients:
        raise RuntimeError(f"the round {round_['phase']}: {round_['reason']}")
    last = max(part["submitted_at"] for part in round_["assignments"])
    closed, recorded = (datetime.fromisoformat(when) for when in (round_["closed_at"], last))
    return Load(
        sending=sending,
        aggregating=(closed - recorded).total_seconds(),
        update=median(seconds for seconds, _ in alone),
        update_bytes=alone[0][1],
    )


async def _gather(work: Any, items: Any) -> list[Any]:
    """Results of ``work`` on each item, a few at a time."""
    turn = asyncio.Semaphore(CONCURRENCY)

    async def one(item: Any) -> Any:
        async with turn:
            return await work(item)

    return await asyncio.gather(*(one(item) for item in items))
