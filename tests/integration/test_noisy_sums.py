"""Secure sums with noise: what is said of the budget, and which budgets are refused."""

from __future__ import annotations

import pytest

from coordinator.store import rounds as round_store
from shared.federation.specification import FederationSpecification
from shared.rest.problems import ProblemType
from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.private_sums import COHORT_SIZE, private_specification
from tests.support.sum_members import (
    start_protected,
)
from tests.support.sum_rounds import decline, everybody

pytestmark = pytest.mark.integration


@on_sqlite
async def test_no_client_uses_up_the_numbers_that_a_privacy_budget_is_of(
    coordinator: RunningCoordinator,
) -> None:
    names = [f"site-{index}" for index in range(COHORT_SIZE)]
    members = await start_protected(coordinator, private_specification(), *names)
    await decline(coordinator, await members[0].task(), joined_round=1000)
    async with coordinator.context.database.reading() as session:
        assert await round_store.next_number(session, 1) == 2


async def test_a_sum_with_noise_says_what_of_the_budget_is_spent(
    coordinator: RunningCoordinator,
) -> None:
    specification = private_specification()
    names = [f"site-{index}" for index in range(COHORT_SIZE)]
    members = await start_protected(coordinator, specification, *names)
    for _ in ("join", "train", "confirm", "unmask"):
        await everybody(coordinator, *members)
    report = await coordinator.show("tiny/rounds/1")
    assert report["phase"] == "committed"
    privacy = specification.training.privacy
    assert privacy is not None
    assert report["metrics"]["epsilon_spent"] == privacy.epsilon_after(1)


async def post(coordinator: RunningCoordinator, specification: FederationSpecification) -> str:
    """The answer to a specification that cannot be."""
    response = await coordinator.http.post(
        "/v1/federations", json=specification.document, headers=coordinator.admin
    )
    assert response.status_code == 422
    assert response.json()["type"] == ProblemType.INVALID_REQUEST.urn
    return str(response.json()["detail"])


@on_sqlite
async def test_noise_that_breaks_its_budget_creates_no_federation(
    coordinator: RunningCoordinator,
) -> None:
    little = private_specification({"noise_multiplier": 0.5})
    answer = await post(coordinator, little)
    assert "in 2 steps with a sample rate of 1 needs a noise multiplier of" in answer
    coarse = private_specification(
        protection={"bits": 8, "bound": 1.0}, policy={"rounds": 2, "minimum_updates": 3}
    )
    answer = await post(coordinator, coarse)
    assert "too coarse to be rounded: give protection.bits more" in answer
