"""Clients that are invited when their federation has ended: they read, and have no work."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from coordinator.store.tables import FederationRow
from shared.arrays import digest_arrays
from shared.rest.schema import FederationState
from shared.tensors import codec
from tests.support.coordinator import RunningCoordinator
from tests.support.rounds import phases, send_updates
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration


async def finished(coordinator: RunningCoordinator) -> dict[str, Any]:
    """A federation that finished after its only round; as the administrator sees it."""
    specification = tiny_specification(rounds=1)
    await coordinator.started(specification, "a")
    await send_updates(coordinator, specification, "a")
    await coordinator.driver.step()
    shown: dict[str, Any] = await coordinator.show("tiny")
    assert (shown["state"], shown["weights_version"]) == ("finished", 1)
    return shown


async def get(coordinator: RunningCoordinator, client: str, path: str) -> Any:
    return await coordinator.http.get(
        f"/v1/federations/tiny{path}", headers=coordinator.credentials[client]
    )


async def test_a_late_client_reads_the_final_weights(coordinator: RunningCoordinator) -> None:
    federation = await finished(coordinator)
    await coordinator.enrol("tiny", "late")
    shown = (await get(coordinator, "late", "")).json()
    assert (shown["state"], shown["weights_version"]) == ("finished", 1)
    response = await get(coordinator, "late", "/weights/1")
    assert response.status_code == 200
    weights, _ = codec.decode(response.content)
    assert digest_arrays(weights) == federation["weights_digest"]


async def test_a_late_client_gets_no_work_and_changes_nothing(
    coordinator: RunningCoordinator,
) -> None:
    before = await finished(coordinator)
    await coordinator.enrol("tiny", "late")
    poll = await coordinator.poll("tiny", "late")
    assert poll.status_code == 410
    assert poll.json()["type"] == "urn:hyperfl:problem:federation-finished"
    for round_number in (1, 2):
        task = {
            "federation": "tiny",
            "client": "late",
            "kind": "train",
            "round_number": round_number,
            "base_version": round_number - 1,
            "base_digest": before["weights_digest"],
            "attempt": 1,
        }
        refused = await coordinator.put(task, update_bytes(tiny_specification(rounds=1), task))
        assert refused.status_code in (404, 409), refused.text
        heartbeat = await coordinator.http.post(
            f"/v1/federations/tiny/rounds/{round_number}/heartbeat",
            json={"attempt": 1},
            headers=coordinator.credentials["late"],
        )
        assert heartbeat.status_code in (404, 409), heartbeat.text
    await coordinator.driver.step()
    assert await phases(coordinator) == ["committed"]
    after = await coordinator.show("tiny")
    assert after == before | {"clients_enrolled": 2}


async def test_a_known_client_is_invited_again_after_the_end(
    coordinator: RunningCoordinator,
) -> None:
    await finished(coordinator)
    lost = coordinator.credentials["a"]
    await coordinator.enrol("tiny", "a")
    assert (await get(coordinator, "a", "/weights/1")).status_code == 200
    old = await coordinator.http.get("/v1/federations/tiny/weights/1", headers=lost)
    assert old.status_code == 401


async def test_a_late_client_may_be_revoked(coordinator: RunningCoordinator) -> None:
    await finished(coordinator)
    await coordinator.enrol("tiny", "late")
    revoked = await coordinator.http.delete(
        "/v1/federations/tiny/clients/late", headers=coordinator.admin
    )
    assert revoked.status_code == 204
    assert (await get(coordinator, "late", "/weights/1")).status_code == 401


async def test_a_failed_federation_takes_no_more_clients(coordinator: RunningCoordinator) -> None:
    await finished(coordinator)
    async with coordinator.context.database.writing() as session:
        await session.execute(update(FederationRow).values(state=FederationState.FAILED))
    refused = await coordinator.http.post(
        "/v1/federations/tiny/clients", json={"name": "late"}, headers=coordinator.admin
    )
    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:hyperfl:problem:illegal-transition"
    assert "tiny has failed" in refused.json()["detail"]
