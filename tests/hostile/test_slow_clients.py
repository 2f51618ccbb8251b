"""Clients that send a little and then nothing, at a coordinator that listens."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from shared.tensors.codec import MEDIA_TYPE
from tests.support.processes import ServingCoordinator, serving_coordinator
from tests.support.specifications import tiny_specification

pytestmark = pytest.mark.e2e

_NUM_IDLERS = 200
_STALL_SECONDS = 0.5


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingCoordinator]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HYPERFL_UPLOAD_STALL_SECONDS", str(_STALL_SECONDS))
        with serving_coordinator(tmp_path_factory.mktemp("site")) as serving:
            yield serving


def _connect(coordinator: ServingCoordinator) -> socket.socket:
    address = urlsplit(coordinator.url)
    return socket.create_connection((address.hostname, address.port), timeout=30)


def test_many_half_open_connections_hold_nobody_up(coordinator: ServingCoordinator) -> None:
    with ExitStack() as stack:
        for number in range(_NUM_IDLERS):
            idler = stack.enter_context(_connect(coordinator))
            if number % 2:
                idler.sendall(b"GET /v1/federations HTTP/1.1\r\nHost: coordinator\r\nX-Slow: ")
        with urllib.request.urlopen(f"{coordinator.url}/readyz", timeout=10) as response:
            assert response.status == 200


def _leased(coordinator: ServingCoordinator, folder: Path) -> tuple[str, str]:
    """The address and the credential for an update that is wanted."""
    specification = tiny_specification("slow")
    file = folder / "slow.json"
    file.write_text(specification.model_dump_json())
    assert coordinator.admin("federation", "create", file).exit_code == 0
    token = coordinator.invite("slow", "site-a")["site-a"]
    with httpx.Client(base_url=coordinator.url) as http:
        enrolled = http.post("/v1/enrolments", json={"enrolment_token": token})
        credential = enrolled.json()["credential"]
        assert coordinator.admin("federation", "start", "slow").exit_code == 0
        task = http.get(
            "/v1/federations/slow/task",
            params={"wait": 20},
            headers={"Authorization": f"Bearer {credential}"},
        ).json()
    path = f"/v1/federations/slow/rounds/{task['round_number']}/updates/site-a"
    return f"{path}?attempt={task['attempt']}", credential


def test_an_update_that_stops_coming_is_given_up(
    coordinator: ServingCoordinator, tmp_path: Path
) -> None:
    path, credential = _leased(coordinator, tmp_path)
    with _connect(coordinator) as stalled:
        head = (
            f"PUT {path} HTTP/1.1\r\nHost: coordinator\r\nAuthorization: Bearer {credential}\r\n"
            f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: 600\r\n\r\n"
        )
        stalled.sendall(head.encode() + b"\x10")
        answer = ""
        while not answer.endswith("}") and (more := stalled.recv(4096)):
            answer += more.decode()
    assert answer.startswith("HTTP/1.1 408 ")
    assert "urn:hyperfl:problem:too-slow" in answer
