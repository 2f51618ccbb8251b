"""What the interface shows of itself, and to whom it listens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.coordinator import RunningCoordinator, on_sqlite, running_coordinator

pytestmark = [pytest.mark.integration, on_sqlite]


async def test_a_slash_too_many_is_not_found_and_leads_nowhere(
    coordinator: RunningCoordinator,
) -> None:
    headers = coordinator.admin | {"Host": "elsewhere.example"}
    answer = await coordinator.http.get("/v1/federations/", headers=headers)
    assert answer.status_code == 404
    assert "Location" not in answer.headers


async def test_the_page_of_the_interface_needs_nothing_from_elsewhere(
    coordinator: RunningCoordinator,
) -> None:
    page = await coordinator.http.get("/docs")
    assert page.status_code == 200
    addresses = re.findall(r"""(?:src|href|url)["']?\s*[:=]\s*["']([^"']+)""", page.text)
    assert len(addresses) >= 3
    for address in addresses:
        assert address.startswith("/"), address
        assert (await coordinator.http.get(address)).status_code == 200, address
    assert (await coordinator.http.get("/redoc")).status_code == 404


async def test_the_page_can_be_left_out(database_url: str, tmp_path: Path) -> None:
    async with running_coordinator(database_url, tmp_path, api_docs=False) as coordinator:
        assert (await coordinator.http.get("/docs")).status_code == 404


async def test_every_call_with_a_token_declares_it(coordinator: RunningCoordinator) -> None:
    document = coordinator.app.openapi()
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            is_open = not path.startswith(("/v1", "/metrics")) or path == "/v1/enrolments"
            declared = [] if is_open else [{"HTTPBearer": []}]
            assert operation.get("security", []) == declared, (method, path)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("fl.example.org", 401),
        ("fl.example.org:8400", 401),
        ("a.example.net", 401),
        ("example.net.evil.org", 400),
        ("evil.org", 400),
    ],
)
async def test_only_the_hosts_that_are_set_are_listened_to(
    database_url: str, tmp_path: Path, host: str, status: int
) -> None:
    allowed = "fl.example.org,*.example.net"
    async with running_coordinator(database_url, tmp_path, allowed_hosts=allowed) as coordinator:
        asked = await coordinator.http.get("/v1/federations", headers={"Host": host})
        assert asked.status_code == status
        probed = await coordinator.http.get("/readyz", headers={"Host": host})
        assert probed.status_code == 200
