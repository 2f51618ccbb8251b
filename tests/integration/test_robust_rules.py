"""Rounds in which some clients lie, aggregated by a robust rule, through the REST interface."""

from __future__ import annotations

import numpy as np
import pytest

from shared.arrays import Array
from tests.support.changes import (
    CLIENTS,
    ENCODINGS,
    RULES,
    assert_close,
    change_of_round_one,
    changes,
    norm,
    send,
    specified,
)
from tests.support.coordinator import RunningCoordinator, on_sqlite

pytestmark = pytest.mark.integration


@on_sqlite
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rule", RULES)
async def test_two_hostile_clients_of_seven_do_not_move_a_robust_federation(
    coordinator: RunningCoordinator, encoding: str, rule: str
) -> None:
    """Honest clients differ by noise; the result is theirs, bit for bit in any order of arrival."""
    digests = []
    for name, order in (("one", CLIENTS), ("two", CLIENTS[::-1])):
        specification = specified(encoding, RULES[rule], rounds=1, minimum_updates=7)
        specification = specification.model_copy(update={"name": name})
        await coordinator.started(specification, *CLIENTS)
        everyone = {}
        for client in order:
            seed = CLIENTS.index(client)
            full, wire = changes(specification, seed, 1e6 if client in "bf" else 0.01)
            everyone[client] = full
            assert (await send(coordinator, specification, client, wire, 10**6)).status_code == 201
        found = await change_of_round_one(coordinator, specification)
        assert_close(found, expected_change(rule, everyone), atol=1e-4)
        assert norm(found) < 2.0
        digests.append((await coordinator.show(name))["weights_digest"])
    assert digests[0] == digests[1]


def expected_change(rule: str, everyone: dict[str, dict[str, Array]]) -> dict[str, Array]:
    names = list(everyone["a"])
    stacks = {n: np.stack([everyone[c][n].astype(np.float64) for c in CLIENTS]) for n in names}
    if rule == "median":
        return {n: np.median(stack, axis=0) for n, stack in stacks.items()}
    if rule == "trimmed-mean":
        return {n: np.sort(stack, axis=0)[2:-2].mean(axis=0) for n, stack in stacks.items()}
    flat = np.concatenate([stack.reshape(7, -1) for stack in stacks.values()], axis=1)
    distances = np.square(flat[:, None] - flat[None]).sum(axis=2)
    scores = np.sort(distances, axis=1)[:, 1:4].sum(axis=1)
    chosen = np.argsort(scores)[:3]
    return {n: stack[chosen].mean(axis=0) for n, stack in stacks.items()}


async def test_a_specification_whose_rounds_are_too_small_for_its_rule_is_refused(
    coordinator: RunningCoordinator,
) -> None:
    document = specified("dense").model_dump(mode="json")
    response = await coordinator.http.post(
        "/v1/federations",
        json=document | {"aggregation": {"rule": "multi-krum", "hostile_clients": 2}},
        headers=coordinator.admin,
    )
    assert response.status_code == 422
    assert "needs minimum_updates of at least 7, not 1" in response.json()["detail"]
