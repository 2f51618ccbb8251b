"""Nobody takes what is logged: a full disk, or a reader that is gone. Nothing else is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.federation.specification import EncodingPlan, RoundPolicy
from shared.terminal.command_line import command_line
from tests.support.federation_folder import (
    child_environment,
    finish_federation,
    make_federation,
    reserved_port,
)
from tests.support.processes import PROJECT
from tests.support.tiny_images import tiny_data, write_tiny_images
from worker.operations.specification import build_specification

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_FEDERATION, _CLIENT = "unheard", "site-a"
_TIMEOUT_SECONDS = 120.0


def _full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def _pipe_without_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


async def _make(folder: Path) -> None:
    specification = build_specification(
        _FEDERATION,
        method="hyperfl",
        model="tests.support.extractors:tiny",
        image_shape=(1, 4, 4),
        num_classes=10,
        hyperparameters={"hidden_size": 8, "epochs": 1, "batch_size": 10},
        round_policy=RoundPolicy(rounds=3, lease_seconds=5.0),
        encoding=EncodingPlan(name="factored"),
        seed=1,
    )
    write_tiny_images(folder / "images")
    await make_federation(folder, specification, (_CLIENT,), tiny_data("images"))


@contextmanager
def _running(log: int, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command_line(*arguments), stdout=subprocess.DEVNULL, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(_TIMEOUT_SECONDS)


def _finish_unheard(folder: Path, log: int) -> str:
    """The last digest of a federation whose processes log to ``log``."""
    token = (folder / "coordinator" / "admin-token").read_text().strip()
    with ExitStack() as stack:
        port = stack.enter_context(reserved_port())
        url = f"http://127.0.0.1:{port}"
        stack.enter_context(
            child_environment(
                PYTHONPATH=str(PROJECT),
                HYPERFL_COORDINATOR_URL=url,
                HYPERFL_DEVICE="cpu",
                HYPERFL_LOG_LEVEL="debug",
            )
        )
        data_dir = str(folder / "coordinator")
        serve = ("coordinator", "serve", "--data-dir", data_dir, "--port", str(port))
        coordinator = stack.enter_context(_running(log, *serve))
        run = ("worker", "run", "--config", str(folder / "worker.toml"))
        worker = stack.enter_context(_running(log, *run))
        admin = stack.enter_context(
            httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"})
        )
        give_up_at = time.monotonic() + _TIMEOUT_SECONDS
        shown: dict[str, Any] = {"state": "running"}
        while shown["state"] == "running":
            assert time.monotonic() < give_up_at, shown
            assert coordinator.poll() is None, "the coordinator ended"
            time.sleep(0.1)
            try:
                shown = admin.get(f"/v1/federations/{_FEDERATION}").json()
            except httpx.TransportError:  # it starts
                continue
        assert shown["state"] == "finished"
        assert worker.wait(_TIMEOUT_SECONDS) == 0
        assert admin.get("/readyz").status_code == 200
        digest: str = shown["weights_digest"]
        return digest


@pytest.mark.parametrize("open_log", [_full_disk, _pipe_without_reader])
async def test_a_federation_ends_as_it_would_have_when_no_line_can_be_logged(
    tmp_path: Path, open_log: Callable[[], int]
) -> None:
    await _make(tmp_path / "start")
    shutil.copytree(tmp_path / "start", tmp_path / "heard")
    heard = finish_federation(tmp_path / "heard", _FEDERATION)
    log = open_log()
    try:
        assert _finish_unheard(tmp_path / "start", log) == heard["weights_digest"]
    finally:
        os.close(log)
