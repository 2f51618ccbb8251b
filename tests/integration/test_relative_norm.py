"""Changes that are too large for the weights are refused when they come, over REST."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

from coordinator.store.tables import FederationRow, WeightsRow
from shared.federation.specification import FederationSpecification
from tests.support.changes import ENCODINGS, MATRIX, changes, norm, send
from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.specifications import tiny_specification

pytestmark = [pytest.mark.integration, on_sqlite]

LIMIT = 10.0 * np.sqrt(20.0)
"""Of the tiny federation, whose 20 weights are less than 1."""


def specified(encoding: str, **policy: Any) -> FederationSpecification:
    return tiny_specification(encoding=ENCODINGS[encoding], **policy)


@pytest.mark.parametrize("size", [30.0, 1e34])
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_change_beyond_ten_times_the_weights_is_refused_and_the_round_goes_on(
    coordinator: RunningCoordinator, encoding: str, size: float
) -> None:
    specification = specified(encoding)
    await coordinator.started(specification, "a", "b")
    _, wire = changes(specification, 1, size)
    response = await send(coordinator, specification, "a", wire)
    assert response.status_code == 422, response.text
    problem = response.json()
    assert problem["type"] == "urn:hyperfl:problem:malformed-update"
    assert problem["member"] == "max_relative_norm"
    assert problem["expected"] == pytest.approx(LIMIT)
    assert float(problem["found"]) > LIMIT
    assert "max_relative_norm 10" in problem["detail"]
    for client in "ab":
        _, small = changes(specification, 2)
        assert (await send(coordinator, specification, client, small)).status_code == 201
    await coordinator.driver.step()
    assert (await coordinator.show("tiny"))["weights_version"] == 1


async def test_components_that_cancel_are_counted_in_full(coordinator: RunningCoordinator) -> None:
    specification = specified("factored")
    await coordinator.started(specification, "a")
    _, wire = changes(specification, 1, 0.0)
    left, right = np.full((1, 4), 1e3, np.float32), np.full((1, 2), 1e3, np.float32)
    wire[MATRIX + "/left"] = np.concatenate([left, left])
    wire[MATRIX + "/right"] = np.concatenate([right, -right])
    response = await send(coordinator, specification, "a", wire)
    assert response.status_code == 422, response.text
    assert response.json()["found"] == pytest.approx(2 * 1e6 * np.sqrt(8), rel=1e-3)


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_large_weights_may_change_by_more(
    coordinator: RunningCoordinator, encoding: str
) -> None:
    document = specified(encoding).document
    for tensor in document["parameters"]["tensors"]:
        tensor["initialisation"][0]["centre"] = 100.0
    specification = FederationSpecification.model_validate(document)
    await coordinator.started(specification, "a")
    full, wire = changes(specification, 1, 30.0)
    assert LIMIT < norm(full) < 10.0 * norm(specification.parameters.initial_values())
    assert (await send(coordinator, specification, "a", wire)).status_code == 201


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_null_takes_anything_finite(coordinator: RunningCoordinator, encoding: str) -> None:
    specification = specified(encoding, max_relative_norm=None)
    await coordinator.started(specification, "a")
    _, wire = changes(specification, 1, 1e30)
    assert (await send(coordinator, specification, "a", wire)).status_code == 201
    await coordinator.driver.step()
    assert (await coordinator.show("tiny"))["weights_version"] == 1


async def test_a_federation_recorded_before_the_setting_has_its_default(
    coordinator: RunningCoordinator,
) -> None:
    """Its document is shown as it was; who sends what no honest client does is refused."""
    specification = specified("dense")
    await coordinator.started(specification, "a")
    document = specification.document
    del document["round_policy"]["max_relative_norm"]
    async with coordinator.context.database.writing() as session:
        await session.execute(update(FederationRow).values(specification=json.dumps(document)))
    await coordinator.restart()
    _, wire = changes(specification, 1, 1e34)
    assert (await send(coordinator, specification, "a", wire)).status_code == 422


async def test_weights_that_are_missing_keep_no_update_out(coordinator: RunningCoordinator) -> None:
    """The aggregation says what is wrong with them."""
    specification = specified("dense")
    await coordinator.started(specification, "a")
    async with coordinator.context.database.writing() as session:
        await session.execute(update(WeightsRow).values(blob_id=None))
    _, wire = changes(specification, 1)
    assert (await send(coordinator, specification, "a", wire)).status_code == 201
    await coordinator.driver.step()
    failed, _ = await coordinator.show("tiny/rounds")
    assert failed["reason"] == "the stored weights of version 0 are missing"
