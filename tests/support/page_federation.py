"""A federation that has gone on for a while, written at once: rounds, clients, an open round."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, select

from coordinator.context import Context
from coordinator.operations import federations
from coordinator.store.tables import (
    AssignmentRow,
    ClientRow,
    FederationRow,
    RoundRow,
    UpdateRow,
    WeightsRow,
)
from shared.arrays import digest_bytes
from shared.rest.schema import AssignmentState, ClientState, FederationState, RoundPhase, TaskKind
from tests.support.specifications import tiny_specification

_REASONS = (
    "training failed, no update is sent",
    "the loss is no finite number after step 12",
    "no space left on the device",
)
_DEVICES = ("cuda, NVIDIA H200", "cuda, NVIDIA A100", "cpu, 16 threads")
_AT_ONCE = 50_000


@dataclass(frozen=True)
class Seeded:
    """What is written.

    Attributes:
        name: of the federation.
        clients: enrolled ones.
        rounds: committed ones; one more is open.
        planned: rounds of the policy.
        cohort: clients of a round, of all by default.
        hostile: text to be used wherever a person or a site gives one.
    """

    name: str = "hospitals"
    clients: int = 12
    rounds: int = 24
    planned: int = 60
    cohort: int | None = None
    hostile: str | None = None


async def seed(context: Context, what: Seeded) -> None:
    """Writes the federation, as a coordinator would have by now."""
    draw = random.Random(what.rounds)
    now = context.clock()
    cohort = what.cohort or what.clients
    specification = tiny_specification(
        what.name, rounds=what.planned, cohort_size=cohort, minimum_updates=max(1, cohort // 2)
    )
    named = specification.training.model_copy(update={"model": "skin_lesions.models:cnn"})
    await federations.create(context, specification.model_copy(update={"training": named}))
    seconds = 260.0
    begun = now - timedelta(seconds=seconds * (what.rounds + 1) - 150)
    names = [
        _place(index) if what.hostile is None else f"{what.hostile}{index}"
        for index in range(what.clients)
    ]
    async with context.database.writing() as session:
        federation = (
            await session.scalars(select(FederationRow).where(FederationRow.name == what.name))
        ).one()
        federation.state = FederationState.RUNNING
        federation.started_at = federation.created_at = begun
        federation.weights_version = what.rounds
        federation.reason = what.hostile
        await session.execute(insert(ClientRow), list(_clients(federation.id, names, now, what)))
        keys = (
            await session.scalars(
                select(ClientRow.id)
                .where(ClientRow.federation_id == federation.id)
                .order_by(ClientRow.id)
            )
        ).all()
        rounds = [
            _round(federation.id, number, begun, seconds, what)
            for number in range(1, what.rounds + 2)
        ]
        await session.execute(insert(RoundRow), rounds)
        await session.execute(insert(WeightsRow), _weights(federation.id, begun, what))
        round_keys = (
            await session.scalars(
                select(RoundRow.id)
                .where(RoundRow.federation_id == federation.id)
                .order_by(RoundRow.number)
            )
        ).all()
        newest = await session.scalar(select(func.max(AssignmentRow.id)))
        parts = _parts(draw, round_keys, keys, cohort, (newest or 0) + 1, now, begun, what)
        for chunk in _chunks(parts):
            await session.execute(insert(AssignmentRow), [one for one, _ in chunk])
            updates = [update for _, update in chunk if update is not None]
            if updates:
                await session.execute(insert(UpdateRow), updates)


def _place(index: int) -> str:
    places = ("oslo", "lyon", "graz", "turin", "leiden", "porto", "bonn", "lund", "gent", "bern")
    places += ("riga", "cork", "brno", "pisa")
    return places[index] if index < len(places) else f"site-{index:04d}"


def _clients(
    federation_id: int, names: list[str], now: datetime, what: Seeded
) -> Iterator[dict[str, Any]]:
    for index, name in enumerate(names):
        is_gone = index % 11 == 10
        yield {
            "federation_id": federation_id,
            "name": name,
            "number": index,
            "state": ClientState.ENROLLED,
            "invited_at": now - timedelta(days=3),
            "enrolled_at": now - timedelta(days=2),
            "last_seen_at": now - timedelta(seconds=9000 if is_gone else 3 + 2 * index % 25),
            "joins": 0,
            "updates_recorded": what.rounds - index % 5,
            "num_examples": 900 + 130 * (index % 7),
            "last_reason": what.hostile or (_REASONS[index // 4 % 3] if index % 4 == 2 else None),
            "worker_version": what.hostile or "0.1.0",
            "torch_version": what.hostile or "2.14.0",
            "device": what.hostile or _DEVICES[index % 3],
        }


def _round(
    federation_id: int, number: int, begun: datetime, seconds: float, what: Seeded
) -> dict[str, Any]:
    opened = begun + timedelta(seconds=seconds * (number - 1))
    is_live = number == what.rounds + 1
    return {
        "federation_id": federation_id,
        "number": number,
        "kind": TaskKind.TRAIN,
        "phase": RoundPhase.OPEN if is_live else RoundPhase.COMMITTED,
        "reason": what.hostile,
        "base_version": number - 1,
        "new_version": None if is_live else number,
        "opened_at": opened,
        "deadline_at": opened + timedelta(seconds=900),
        "claimed_at": None if is_live else opened + timedelta(seconds=seconds - 9),
        "closed_at": None if is_live else opened + timedelta(seconds=seconds),
    }


def _weights(federation_id: int, begun: datetime, what: Seeded) -> list[dict[str, Any]]:
    return [
        {
            "federation_id": federation_id,
            "version": version,
            "digest": digest_bytes(f"{what.name} {version}".encode()),
            "created_at": begun + timedelta(seconds=260 * version),
        }
        for version in range(1, what.rounds + 1)
    ]


def _parts(
    draw: random.Random,
    rounds: Iterable[int],
    clients: Iterable[int],
    cohort: int,
    first: int,
    now: datetime,
    begun: datetime,
    what: Seeded,
) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    keys, key = list(clients), first
    for number, round_id in enumerate(rounds, start=1):
        is_live = number == what.rounds + 1
        for index, client_id in enumerate(sorted(draw.sample(keys, cohort))):
            state, reason = _state(draw, index, client_id % 11 == 0, is_live=is_live)
            part = {
                "id": key,
                "round_id": round_id,
                "client_id": client_id,
                "state": state,
                "reason": what.hostile if reason and what.hostile else reason,
                "attempt": 0 if state == AssignmentState.OFFERED else 1 + (draw.random() < 0.06),
                "lease_expires_at": (
                    now + timedelta(seconds=60 + 7 * index % 50)
                    if state == AssignmentState.LEASED
                    else None
                ),
                "bytes_down": 0 if state == AssignmentState.OFFERED else 712_000,
            }
            update = None
            if state == AssignmentState.SUBMITTED:
                update = _update(draw, key, number, index, begun)
            yield part, update
            key += 1


def _state(
    draw: random.Random, index: int, is_gone: bool, *, is_live: bool
) -> tuple[AssignmentState, str | None]:
    chance = draw.random()
    if is_live:
        if is_gone:
            return AssignmentState.OFFERED, None
        if index == 3:
            return AssignmentState.DROPPED, _REASONS[0]
        return (AssignmentState.LEASED if chance < 0.45 else AssignmentState.SUBMITTED), None
    if is_gone and chance < 0.6:
        return AssignmentState.OFFERED, None
    if chance < 0.03:
        return AssignmentState.EXPIRED, None
    if chance < 0.055:
        return AssignmentState.DROPPED, _REASONS[index % len(_REASONS)]
    return AssignmentState.SUBMITTED, None


def _update(
    draw: random.Random, assignment: int, number: int, index: int, begun: datetime
) -> dict[str, Any]:
    reached = 0.94 - 0.55 * math.exp(-number / 9) - 0.012 * (index % 9)
    after = min(0.995, max(0.0, reached + draw.gauss(0, 0.008)))
    before = after - 0.10 * math.exp(-number / 14) - 0.01
    return {
        "assignment_id": assignment,
        "digest": f"sha256:{assignment:064x}",
        "size_bytes": 41_000 + draw.randrange(9_000),
        "num_examples": 900 + 130 * (index % 7),
        "metrics": {
            "accuracy_before": before,
            "accuracy_after": after,
            "loss_before": 2.2 * (1 - before) + 0.08,
            "loss_after": 2.2 * (1 - after) + 0.05,
            "num_test_examples": 240.0,
            "seconds_training": 118 + 6 * (index % 9) + draw.gauss(0, 3),
        },
        "received_at": begun + timedelta(seconds=260 * (number - 1) + 180),
    }


def _chunks(
    parts: Iterator[tuple[dict[str, Any], dict[str, Any] | None]],
) -> Iterator[list[tuple[dict[str, Any], dict[str, Any] | None]]]:
    chunk = []
    for part in parts:
        chunk.append(part)
        if len(chunk) == _AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
