"""The page behind a proxy that serves it under a path: every link leads to where the proxy is."""

from __future__ import annotations

import html
import re
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.settings import CoordinatorSettings
from tests.support.coordinator import on_sqlite, running_coordinator
from tests.support.page import form_fields
from tests.support.specifications import tiny_specification

pytestmark = pytest.mark.integration

_PATH = "/fl/hyperfl"
_LINK = re.compile(r'\b(?:href|src|data-hx-get)="([^"#][^"]*)"')
_FORM = re.compile(r'\baction="([^"]*)"')


class _Proxy:
    """Serves an application under a path, which it takes off, and nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"].startswith(f"{_PATH}/"), f"{scope['path']} leads past the proxy"
        path = scope["path"].removeprefix(_PATH)
        await self._app(scope | {"path": path, "raw_path": path.encode()}, receive, send)


@on_sqlite
async def test_every_link_and_form_of_every_page_leads_under_the_path(
    database_url: str, tmp_path: Path
) -> None:
    async with running_coordinator(database_url, tmp_path, page_path=_PATH) as coordinator:
        await coordinator.started(tiny_specification(), "site-a")
        transport = httpx.ASGITransport(_Proxy(coordinator.app), raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://coordinator", follow_redirects=True
        ) as browser:
            asked = await browser.get(f"{_PATH}/page/audit")
            assert asked.url.path == f"{_PATH}/page/sign-in"
            token = coordinator.admin["Authorization"].removeprefix("Bearer ")
            form = form_fields(asked.text, f"{_PATH}/page/sign-in") | {"token": token}
            signed_in = await browser.post(asked.url.path, data=form)
            assert (signed_in.status_code, signed_in.url.path) == (200, f"{_PATH}/page/audit")

            seen, ahead = set[str](), [f"{_PATH}/"]
            while ahead:
                link = ahead.pop()
                answer = await browser.get(link)
                assert answer.status_code == 200, (link, answer.status_code)
                seen.add(link)
                actions = _FORM.findall(answer.text)
                assert all(action.startswith(f"{_PATH}/page/") for action in actions), link
                if answer.headers["Content-Type"].startswith("text/html"):
                    found = map(html.unescape, _LINK.findall(answer.text))
                    ahead += {one for one in found if one.split("?")[0] != answer.url.path} - {
                        *seen,
                        *ahead,
                    }
            paths = {link.removeprefix(_PATH).split("?")[0] for link in seen}
            assert {
                *("/", "/page/tokens", "/page/sessions", "/page/federations/tiny/clients"),
                *("/page/federations/tiny/rounds", "/page/assets/page.css"),
            } <= paths

            pausing = f"{_PATH}/page/federations/tiny/pause"
            fields = form_fields((await browser.get(pausing)).text, pausing)
            paused = await browser.post(pausing, data=fields)
            assert paused.url.path == f"{_PATH}/page/federations/tiny"
            assert "paused" in paused.text


@pytest.mark.parametrize("path", ["hyperfl", "/hyperfl/", "//evil.example", "/a b", '/"x'])
def test_a_path_that_is_none_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValidationError, match="page_path"):
        CoordinatorSettings(data_dir=tmp_path, page_path=path)
