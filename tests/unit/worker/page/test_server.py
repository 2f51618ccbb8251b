"""Where a site's page is served, and where not."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.hosted_clients import worker_config
from worker.errors import ConfigError
from worker.page.server import served_page
from worker.settings import WorkerSettings


def served(folder: Path, **settings: Any) -> Any:
    return served_page(worker_config(folder, "tiny", "alice"), WorkerSettings(**settings))


def test_it_is_off_by_default(tmp_path: Path) -> None:
    with served(tmp_path) as port:
        assert port is None


def test_it_is_served_while_the_worker_runs(tmp_path: Path) -> None:
    with served(tmp_path, site_page="127.0.0.1:0") as port:
        url = f"http://127.0.0.1:{port}/"
        assert "<h2>alice</h2>" in httpx.get(url).text
        assert httpx.get(url, headers={"Host": "attacker.example"}).status_code == 403
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_it_stays_on_this_machine_unless_it_has_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 is no address of this machine alone"):
        served(tmp_path, site_page="0.0.0.0:0").__enter__()
    with served(tmp_path, site_page="0.0.0.0:0", site_page_hosts="Site.example.org") as port:
        url = f"http://127.0.0.1:{port}/"
        assert httpx.get(url, headers={"Host": "site.example.org"}).status_code == 200


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"HYPERFL_SITE_PAGE: cannot listen on {address}: "):
            served(tmp_path, site_page=address).__enter__()
    with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1:70000: "):
        served(tmp_path, site_page="127.0.0.1:70000").__enter__()
