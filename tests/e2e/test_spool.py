"""Fetch, train and send as processes, where training reaches nobody."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import httpx
import pytest

from shared.federation.specification import EncodingPlan, RoundPolicy
from tests.support.federation_folder import finish_federation, make_federation
from tests.support.processes import hyperfl
from tests.support.tiny_images import tiny_data, write_tiny_images
from worker.demo.processes import run_in_background
from worker.operations.specification import build_specification

pytestmark = pytest.mark.e2e

_TIMEOUT_SECONDS = 600.0
_NOWHERE = "http://127.0.0.1:9"
_NAMES = ("site-a", "site-b")


async def _make(folder: Path) -> None:
    specification = build_specification(
        "steady",
        method="hyperfl",
        model="tests.support.extractors:tiny",
        image_shape=(1, 4, 4),
        num_classes=10,
        hyperparameters={"hidden_size": 8, "epochs": 1, "batch_size": 10},
        round_policy=RoundPolicy(rounds=1, minimum_updates=2, cohort_size=2, evaluate_final=False),
        encoding=EncodingPlan(name="factored"),
        seed=1,
    )
    write_tiny_images(folder / "images")
    await make_federation(folder, specification, _NAMES, tiny_data("images", len(_NAMES)))


def test_training_without_a_network_ends_with_a_workers_weights(tmp_path: Path) -> None:
    start, folder = tmp_path / "start", tmp_path / "spooled"
    asyncio.run(_make(start))
    shutil.copytree(start, folder)
    data_dir = str(folder / "coordinator")
    serve = ("coordinator", "serve", "--port", "0", "--data-dir", data_dir)
    with run_in_background("coordinator", folder, *serve) as coordinator:
        address = coordinator.wait_for_event("listening")
        url = f"http://{address['host']}:{address['port']}"
        online = {"HYPERFL_COORDINATOR_URL": url, "HYPERFL_DEVICE": "cpu"}
        offline = {
            "HYPERFL_COORDINATOR_URL": _NOWHERE,
            "HTTPS_PROXY": _NOWHERE,
            "HTTP_PROXY": _NOWHERE,
            "HYPERFL_DEVICE": "cpu",
        }
        options = ("--spool", "spool", "--config", "worker.toml", "--json")
        fetched = hyperfl("worker", "fetch", "--wait", *options, folder=folder, **online).json
        assert [one["state"] for one in fetched] == ["to be trained"] * 2
        trained = hyperfl("worker", "train", *options, folder=folder, **offline).json
        assert [one["state"] for one in trained] == ["to be sent"] * 2
        sent = hyperfl("worker", "send", *options, folder=folder, **online).json
        assert [one["state"] for one in sent] == ["sent"] * 2
        token = (folder / "coordinator" / "admin-token").read_text().strip()
        shown = {"state": "running"}
        give_up_at = time.monotonic() + _TIMEOUT_SECONDS
        while shown["state"] == "running":
            assert time.monotonic() < give_up_at, shown
            shown = httpx.get(
                f"{url}/v1/federations/steady", headers={"Authorization": f"Bearer {token}"}
            ).json()
            time.sleep(0.1)
    assert shown["weights_digest"] == finish_federation(start, "steady")["weights_digest"]
