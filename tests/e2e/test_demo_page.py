"""A demo that shows its page: to a reader while it trains, and after its end until Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from html import unescape
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from shared.terminal.command_line import command_line
from tests.support.processes import ENVIRONMENT

pytestmark = pytest.mark.e2e

_SECONDS = 120


def test_a_reader_sees_a_demo_until_it_is_interrupted(images: Path, tmp_path: Path) -> None:
    data = ("--dataset", "image-folder", "--data-dir", str(images), "--image-shape", "1x4x4")
    model = ("--model", "tests.support.extractors:one_layer_on_4x4")
    size = ("--method", "fedavg", "--clients", "1", "--rounds", "1", "--json")
    # Shells start what runs in the background with this signal ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command_line("demo", "--serve-page", *data, *model, *size),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
    ) as demo:
        signal.signal(signal.SIGINT, before)
        try:
            assert demo.stderr is not None
            shown = re.compile(r"page at (\S+) for the read-only token (\S+)\n")
            url, token = next(filter(None, map(shown.fullmatch, demo.stderr))).groups()
            with httpx.Client(base_url=url) as browser:
                signed_in = browser.post("/page/sign-in", data={"token": token})
                assert signed_in.status_code == 303
                assert "demo" in browser.get("/").text
                assert any("page still at" in line for line in demo.stderr)
                clients = unescape(browser.get("/page/federations/demo/clients").text)
            demo.send_signal(signal.SIGINT)
            output, _ = demo.communicate(timeout=_SECONDS)
        finally:
            demo.kill()
    assert demo.returncode == 0
    assert json.loads(output)["rounds"] == 1
    # What the worker has said with its polls.
    assert version("hyperfl") in clients
    assert "torch" in clients
    assert "cpu" in clients
