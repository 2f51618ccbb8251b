"""A federation of a real worker and of a client that the test plays, between real processes.

No round commits before the test has sent its client's update, so what the test does to the
coordinator befalls a round that is open, however fast or slow the machine is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from shared.federation.specification import EncodingPlan, FederationSpecification, RoundPolicy
from shared.tensors.codec import MEDIA_TYPE
from tests.support.federation_folder import child_environment, make_federation, reserved_port
from tests.support.processes import PROJECT
from tests.support.tiny_images import tiny_data, write_tiny_images
from tests.support.updates import random_deltas, update_bytes
from worker.demo.processes import BackgroundProcess, run_in_background
from worker.operations.specification import build_specification

ROUNDS = 3
FEDERATION, WORKER, PLAYED = "two-sites", "site-a", "site-b"
_PATH = f"/v1/federations/{FEDERATION}"
_TIMEOUT_SECONDS = 120.0
_REQUEST_SECONDS = 30.0
"""A request that is not answered by then hangs."""


def two_sites_specification() -> FederationSpecification:
    return build_specification(
        FEDERATION,
        method="hyperfl",
        model="tests.support.extractors:tiny",
        image_shape=(1, 4, 4),
        num_classes=10,
        hyperparameters={"hidden_size": 4096, "epochs": 1},
        round_policy=RoundPolicy(
            rounds=ROUNDS, minimum_updates=2, lease_seconds=5.0, evaluate_final=False
        ),
        encoding=EncodingPlan(name="dense"),
        seed=1,
    )


@dataclass(frozen=True)
class TwoSites:
    """The running processes, and the played client's side of the protocol."""

    http: httpx.Client
    coordinator: BackgroundProcess
    worker: BackgroundProcess
    admin: Mapping[str, str]
    played: Mapping[str, str]
    specification: FederationSpecification

    def take_task(self) -> dict[str, Any]:
        """The played client's task of the open round."""
        give_up_at = time.monotonic() + _TIMEOUT_SECONDS
        while time.monotonic() < give_up_at:
            self.worker.check_alive()
            polled = self.http.get(f"{_PATH}/task", params={"wait": 1}, headers=dict(self.played))
            if polled.status_code == 200:
                task: dict[str, Any] = polled.json()
                return task
            assert polled.status_code in (204, 503), polled.text
            time.sleep(0.2)
        raise AssertionError("no task came")

    def send_update(self, task: dict[str, Any]) -> httpx.Response:
        """The same small change for every try of a round."""
        deltas = {
            name: delta * np.float32(1e-3)
            for name, delta in random_deltas(self.specification, task["round_number"]).items()
        }
        return self.http.put(
            f"{_PATH}/rounds/{task['round_number']}/updates/{PLAYED}",
            params={"attempt": task["attempt"]},
            content=update_bytes(self.specification, task, deltas),
            headers=dict(self.played) | {"Content-Type": MEDIA_TYPE},
        )

    def play_round(self) -> None:
        """Takes the open round's task and sends its update, as often as that takes."""
        give_up_at = time.monotonic() + _TIMEOUT_SECONDS
        while (answer := self.send_update(self.take_task())).status_code not in (200, 201):
            assert answer.status_code in (409, 503), answer.text
            assert time.monotonic() < give_up_at, answer.text
            time.sleep(0.2)

    def finish(self, num_failed: int = 0) -> str:
        """The last weights' digest, once the federation and its worker have ended.

        All rounds but ``num_failed`` were committed, with both sites' updates.
        """
        give_up_at = time.monotonic() + _TIMEOUT_SECONDS
        shown: dict[str, Any] = {}
        while shown.get("state") != "finished":
            assert time.monotonic() < give_up_at, f"still not finished: {shown}"
            assert shown.get("state", "running") == "running", shown
            answer = self.http.get(_PATH, headers=dict(self.admin))
            shown = answer.json() if answer.status_code == 200 else {}
            time.sleep(0.1)
        assert self.worker.process.wait(_TIMEOUT_SECONDS) == 0, self.worker.last_words()
        rounds = self.http.get(f"{_PATH}/rounds", headers=dict(self.admin)).json()
        committed = [one for one in rounds if one["phase"] == "committed"]
        assert (len(committed), len(rounds)) == (ROUNDS, ROUNDS + num_failed)
        assert {one["updates_received"] for one in committed} == {2}
        digest: str = shown["weights_digest"]
        return digest

    def requests(self, task: dict[str, Any]) -> Iterator[httpx.Response]:
        """One of each kind that needs the database."""
        yield self.send_update(task)
        yield self.http.get(f"{_PATH}/task", params={"wait": 1}, headers=dict(self.played))
        yield self.http.get(f"{_PATH}/weights/1", headers=dict(self.played))
        yield self.http.get(_PATH, headers=dict(self.admin))
        yield self.http.post(f"{_PATH}/clients", json={"name": "late"}, headers=dict(self.admin))
        yield self.http.post("/v1/enrolments", json={"enrolment_token": "hyperfl-enrolment-x"})
        yield self.http.get("/readyz")


@contextmanager
def two_sites(
    folder: Path, database_url: str | None = None, **environment: str
) -> Iterator[TwoSites]:
    """Coordinator and worker of a federation whose first round is open."""
    specification = two_sites_specification()
    write_tiny_images(folder / "images")
    credentials = asyncio.run(
        make_federation(
            folder,
            specification,
            [WORKER],
            tiny_data("images"),
            database_url=database_url,
            others=(PLAYED,),
        )
    )
    options = () if database_url is None else ("--database-url", database_url)
    with ExitStack() as stack:
        port = stack.enter_context(reserved_port())
        url = f"http://127.0.0.1:{port}"
        stack.enter_context(
            child_environment(
                HYPERFL_COORDINATOR_URL=url,
                HYPERFL_AGGREGATION_LEASE_SECONDS="2",
                HYPERFL_TICK_SECONDS="0.2",
                HYPERFL_DEVICE="cpu",
                **{"PYTHONPATH": str(PROJECT)} | environment,
            )
        )
        coordinator = stack.enter_context(
            run_in_background(
                "coordinator",
                folder,
                *("coordinator", "serve", "--port", str(port)),
                *("--data-dir", str(folder / "coordinator"), *options),
            )
        )
        coordinator.wait_for_event("listening")
        worker = stack.enter_context(
            run_in_background(
                "worker", folder, "worker", "run", "--config", str(folder / "worker.toml")
            )
        )
        token = (folder / "coordinator" / "admin-token").read_text().strip()
        http = stack.enter_context(httpx.Client(base_url=url, timeout=_REQUEST_SECONDS))
        yield TwoSites(
            http,
            coordinator,
            worker,
            {"Authorization": f"Bearer {token}"},
            credentials[PLAYED],
            specification,
        )
