"""Federations that an earlier version recorded, under a version that knows more settings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import update

from coordinator.store.tables import FederationRow
from shared.federation.specification import document_digest
from shared.rest.schema import FederationSummary, FederationView
from tests.support.coordinator import RunningCoordinator
from tests.support.rounds import num_closed
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
    """As an earlier version did, before this one was started."""
    await coordinator.create(tiny_specification())
    async with coordinator.context.database.writing() as session:
        await session.execute(
            update(FederationRow).values(
                specification=json.dumps(document), specification_digest=document_digest(document)
            )
        )
    await coordinator.restart()


async def write_specification(coordinator: RunningCoordinator, text: str) -> None:
    """Behind the coordinator's back, which then starts anew."""
    async with coordinator.context.database.writing() as session:
        await session.execute(update(FederationRow).values(specification=text))
    await coordinator.restart()


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


LATER = tiny_specification().document | {"a_later_setting": 1}
UNREADABLE = {"of a later version": json.dumps(LATER), "a list": "[]"}
DAMAGED = '{"name": "ti'
REASON = "this coordinator cannot read the specification of federation tiny: "


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
async def test_a_federation_that_cannot_be_read_pauses_with_the_reason_and_stops_no_other(
    coordinator: RunningCoordinator, text: str
) -> None:
    await coordinator.started(tiny_specification(), "a")
    task = await coordinator.task("tiny", "a")
    await write_specification(coordinator, text)
    await coordinator.started(tiny_specification("well"), "b")

    listed = await coordinator.http.get("/v1/federations", headers=coordinator.admin)
    assert listed.status_code == 200, listed.text
    tiny, well = (FederationSummary.model_validate(one) for one in listed.json())
    assert (tiny.state, tiny.method, tiny.model, tiny.rounds_planned) == ("paused", *[None] * 3)
    assert tiny.reason is not None
    assert tiny.reason.startswith(REASON)
    assert (well.state, well.method, well.round_number) == ("running", "hyperfl", 1)
    assert (await coordinator.show("tiny"))["state"] == "paused"
    resumed = await coordinator.act("tiny", "resume")
    assert (resumed.status_code, resumed.json()["detail"]) == (409, tiny.reason)

    await write_specification(coordinator, json.dumps(tiny_specification().document))
    assert (await coordinator.act("tiny", "resume")).status_code == 200
    sent = await coordinator.put(task, update_bytes(tiny_specification(), task))
    assert sent.status_code == 201, sent.text
    await coordinator.driver.step()
    assert (await coordinator.show("tiny"))["weights_version"] == 1


async def test_a_federation_whose_record_is_damaged_fails_with_the_reason(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    task = await coordinator.task("tiny", "a")
    await write_specification(coordinator, DAMAGED)
    await coordinator.driver.step()
    shown = await coordinator.show("tiny")
    assert shown["state"] == "failed"
    assert shown["reason"].startswith("the recorded specification of federation tiny is")
    [round_] = await coordinator.show("tiny/rounds")
    assert (round_["phase"], round_["reason"]) == ("failed", shown["reason"])
    assert await num_closed(coordinator, "failed") == 1
    assert (await coordinator.poll("tiny", "a")).status_code == 410
    late = await coordinator.put(task, update_bytes(tiny_specification(), task))
    assert late.json()["type"] == "urn:hyperfl:problem:round-closed"


async def test_a_federation_that_cannot_be_read_says_so_before_it_runs(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())
    await write_specification(coordinator, json.dumps(LATER))
    shown = FederationView.model_validate(await coordinator.show("tiny"))
    assert (shown.state, shown.reason) == (
        "draft",
        REASON + "a_later_setting: unknown key",
    )
    assert shown.specification == LATER
    refused = await coordinator.act("tiny", "start")
    assert (refused.status_code, refused.json()["detail"]) == (409, shown.reason)


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
    document["training"] |= {"method": "scaffold", "model": "vit:vit_of_another_timm"}
    await record(coordinator, document)
    listed = await coordinator.http.get("/v1/federations", headers=coordinator.admin)
    assert [one["model"] for one in listed.json()] == ["vit:vit_of_another_timm"]
    shown = FederationView.model_validate(await coordinator.show("tiny"))
    training = shown.checked_specification().training
    assert (training.method, training.model) == ("scaffold", "vit:vit_of_another_timm")
