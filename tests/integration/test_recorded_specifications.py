"""Federations that an earlier version recorded, under a version that knows more settings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import update

from coordinator.tables import FederationRow
from shared.schema import FederationView
from shared.specification import document_digest
from tests.support.coordinator import RunningCoordinator
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration


def older_document() -> dict[str, Any]:
    """As it was written before ``on_excess`` was known, and with the encoding as a name."""
    document = tiny_specification().document
    del document["round_policy"]["on_excess"]
    document["encoding"] = "dense"
    return document


async def record(coordinator: RunningCoordinator, document: dict[str, Any]) -> None:
    await coordinator.create(tiny_specification())
    async with coordinator.context.database.writing() as session:
        await session.execute(
            update(FederationRow).values(
                specification=json.dumps(document), specification_digest=document_digest(document)
            )
        )
    coordinator.context._specifications.clear()


async def test_a_specification_is_shown_as_it_was_recorded_with_its_digest(
    coordinator: RunningCoordinator,
) -> None:
    await record(coordinator, older_document())
    await coordinator.enrol("tiny", "a")
    response = await coordinator.http.get(
        "/v1/federations/tiny", headers=coordinator.credentials["a"]
    )
    shown = FederationView.model_validate_json(response.content)
    assert shown.specification == older_document()
    assert shown.specification_digest == document_digest(older_document())
    assert shown.specification_digest != document_digest(tiny_specification().document)
    assert shown.checked_specification() == tiny_specification()


async def test_a_federation_of_an_earlier_version_goes_on(coordinator: RunningCoordinator) -> None:
    await record(coordinator, older_document())
    await coordinator.enrol("tiny", "a")
    await coordinator.act("tiny", "start")
    await coordinator.driver.step()
    task = await coordinator.task("tiny", "a")
    sent = await coordinator.put(task, update_bytes(tiny_specification(), task))
    assert sent.status_code == 201, sent.text
    await coordinator.driver.step()
    assert (await coordinator.show("tiny"))["weights_version"] == 1


async def test_a_new_specification_is_recorded_with_its_defaults(
    coordinator: RunningCoordinator,
) -> None:
    created = await coordinator.create(tiny_specification())
    assert created["specification"] == tiny_specification().document
    assert created["specification_digest"] == document_digest(created["specification"])


async def test_a_name_that_is_no_longer_known_keeps_nobody_from_looking(
    coordinator: RunningCoordinator,
) -> None:
    document = tiny_specification().document
    document["training"]["model"] = "vit:vit_of_another_timm"
    await record(coordinator, document)
    listed = await coordinator.http.get("/v1/federations", headers=coordinator.admin)
    assert [one["model"] for one in listed.json()] == ["vit:vit_of_another_timm"]
    shown = FederationView.model_validate(await coordinator.show("tiny"))
    assert shown.checked_specification().training.model == "vit:vit_of_another_timm"
