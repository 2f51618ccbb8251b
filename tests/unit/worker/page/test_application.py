"""A site's page: what it shows, and to whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
import torch

from shared.rest.schema import TaskKind
from tests.support.fake_coordinator import NOW
from tests.support.hosted_clients import worker_config
from worker.page.application import SitePage
from worker.site import history
from worker.site.history import FILE_NAME, HistoryRow, Sent
from worker.site.scores import scores_of

NAMES = ("cat", "<script>alert(1)</script>")


@pytest.fixture
def page(tmp_path: Path) -> SitePage:
    """Of a client with 60 rounds, and one with none."""
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    for number in range(1, 61):
        sent = Sent(
            bytes=4321,
            digest="sha256:" + 64 * "0",
            tensors=(),
            metrics={"accuracy_after": 0.5},
            withheld_metrics=("loss_after",),
            policy={},
        )
        row = HistoryRow(
            at=NOW,
            round_number=number,
            kind=TaskKind.TRAIN,
            weights_version=number,
            weights_digest="sha256:" + f"{number:064}",
            examples={},
            metrics={"accuracy_before": 0.125},
            scores=scores_of(logits, torch.tensor([0, 0]), NAMES),
            sent=sent,
        )
        history.add(tmp_path / "alice", row)
    return SitePage(worker_config(tmp_path, "tiny", "alice", "bob"), frozenset({"localhost"}))


def ask(page: SitePage, path: str = "/", **environment: str) -> tuple[str, dict[str, str], str]:
    """Status, headers and body."""
    asked: dict[str, Any] = {"PATH_INFO": path, "HTTP_HOST": "localhost:8420"} | environment
    setup_testing_defaults(asked)
    said: list[Any] = []
    body = b"".join(page(asked, lambda *answer: said.extend(answer))).decode()
    return said[0], dict(said[1]), body


def test_it_shows_the_newest_rounds_and_the_policy(page: SitePage) -> None:
    status, headers, body = ask(page)
    assert (status, headers["Content-Type"]) == ("200 OK", "text/html; charset=utf-8")
    assert "The newest 50 of 60 rounds" in body
    assert body.count("<td>train</td>") == 50
    assert "<td>60</td>" in body
    assert "<td>10</td>" not in body
    for shown in ("0.125", "4321", "loss_after", "No round yet.", "minimum_trusted_peers"):
        assert shown in body


def test_what_data_is_called_is_no_html(page: SitePage) -> None:
    _, headers, body = ask(page)
    assert "<script" not in body
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in body
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'")
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "host", ["attacker.example", "localhost.attacker.example:8420", "", "[::1]:1"]
)
@pytest.mark.parametrize("path", ["/", "/style.css", "/x"])
def test_another_name_is_refused(page: SitePage, host: str, path: str) -> None:
    status, _, body = ask(page, path, HTTP_HOST=host)
    assert status == "403 Forbidden"
    assert "HYPERFL_SITE_PAGE_HOSTS" in body


@pytest.mark.parametrize("host", ["LOCALHOST", "localhost", "localhost:1"])
def test_its_own_name_is_taken_with_any_port_and_case(page: SitePage, host: str) -> None:
    assert ask(page, HTTP_HOST=host)[0] == "200 OK"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(page: SitePage, method: str) -> None:
    assert ask(page, REQUEST_METHOD=method)[0] == "405 Method Not Allowed"


def test_there_is_a_style_and_nothing_else(page: SitePage) -> None:
    assert ask(page, "/style.css")[1]["Content-Type"].startswith("text/css")
    for path in ("/../style.css", "/page.html", "/application.py", "//"):
        assert ask(page, path)[0] == "404 Not Found"
    assert ask(page, REQUEST_METHOD="HEAD")[2] == ""


def test_a_damaged_history_is_said(page: SitePage, tmp_path: Path) -> None:
    (tmp_path / "alice" / FILE_NAME).write_bytes(b"nothing\n")
    status, _, body = ask(page)
    assert status == "500 Internal Server Error"
    assert "history.jsonl is damaged: line 1" in body
