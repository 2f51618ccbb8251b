"""A coordinator behind nginx and Caddy, as the examples of docs/operating set them up."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.certificates import Authority, new_authority
from tests.support.processes import ServingCoordinator, hyperfl_here
from tests.support.proxies import proxy
from tests.support.specifications import tiny_specification

pytestmark = pytest.mark.e2e

_SPOOFED = "203.0.113.9"
_BODY_BYTES = 3 << 20
"""More than nginx takes by itself, and more than it keeps in memory."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return new_authority(tmp_path_factory.mktemp("authorities") / "trusted")


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def url(
    request: pytest.FixtureRequest,
    coordinator: ServingCoordinator,
    authority: Authority,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    port = urlsplit(coordinator.url).port
    assert port is not None
    folder = tmp_path_factory.mktemp(request.param)
    with proxy(request.param, port, *authority.certify("127.0.0.1"), folder) as address:
        yield address


@pytest.mark.parametrize("path", ["", "/hyperfl"])
def test_commands_and_workers_requests_pass(
    url: str, path: str, coordinator: ServingCoordinator, authority: Authority, tmp_path: Path
) -> None:
    name = f"by-{urlsplit(url).port}{path.replace('/', '-')}"
    file = tmp_path / "federation.json"
    file.write_text(tiny_specification(name).model_dump_json())
    created = hyperfl_here(
        *("federation", "create", file, "--json"),
        folder=tmp_path,
        HYPERFL_COORDINATOR_URL=url + path,
        HYPERFL_ADMIN_TOKEN_FILE=str(coordinator.admin_token_file),
        SSL_CERT_FILE=str(authority.ca_file),
    )
    assert created.json["name"] == name
    token = coordinator.invite(name, "site-a")["site-a"]
    trusted = ssl.create_default_context(cafile=str(authority.ca_file))
    with httpx.Client(base_url=url + path, verify=trusted) as http:
        enrolled = http.post(
            "/v1/enrolments",
            json={"enrolment_token": token},
            headers={"X-Forwarded-For": _SPOOFED},
        )
        http.headers["Authorization"] = f"Bearer {enrolled.json()['credential']}"
        polled = http.get(f"/v1/federations/{name}/task", params={"wait": 1})
        assert polled.status_code == 204
        sent = http.put(
            f"/v1/federations/{name}/rounds/1/updates/site-a",
            params={"attempt": 1},
            content=b"\0" * _BODY_BYTES,
            headers={"Content-Type": "application/vnd.hyperfl.update+safetensors"},
        )
    assert sent.headers["Content-Type"] == "application/problem+json", sent.text
    assert sent.json()["type"].startswith("urn:hyperfl:problem:")
    audit = tmp_path / "audit.jsonl"
    assert coordinator.admin("audit", "export", audit).exit_code == 0
    events = [json.loads(line) for line in audit.read_text().splitlines()]
    enrolments = [one for one in events if one["action"] == "POST /v1/enrolments"]
    assert enrolments[-1]["address"] == "127.0.0.1", "what a client says of it is not believed"
