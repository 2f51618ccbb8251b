"""The coordinator's page as a browser uses it, without one: a cookie, and forms as they are."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

import httpx

from tests.support.coordinator import RunningCoordinator

SIGN_IN = "/page/sign-in"
_FORM = re.compile(r"<form\b([^>]*)>(.*?)</form>", re.DOTALL)
_INPUT = re.compile(r"<(?:input|select)\b([^>]*)>")
_ATTRIBUTE = re.compile(r'([\w-]+)="([^"]*)"')


@dataclass
class Browser:
    """One browser's cookies at a coordinator in this process."""

    http: httpx.AsyncClient

    async def sign_in(self, token: str, **fields: str) -> httpx.Response:
        return await self.http.post(SIGN_IN, data={"token": token, **fields})

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers=headers)

    async def text(self, path: str) -> str:
        answer = await self.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    async def submit(self, page: str, action: str, **fields: str) -> httpx.Response:
        """Sends the form of ``page`` that leads to ``action``, with its hidden fields."""
        return await self.http.post(
            action, data=form_fields(await self.text(page), action) | fields
        )

    async def close(self) -> None:
        await self.http.aclose()


def form_fields(text: str, action: str) -> dict[str, str]:
    """The fields of the form that leads to ``action``, with what they hold."""
    for attributes, content in _FORM.findall(text):
        if dict(_ATTRIBUTE.findall(attributes)).get("action") == action:
            fields = [dict(_ATTRIBUTE.findall(one)) for one in _INPUT.findall(content)]
            return {one["name"]: html.unescape(one.get("value", "")) for one in fields}
    raise AssertionError(f"no form leads to {action}")


def new_browser(coordinator: RunningCoordinator, base_url: str = "http://coordinator") -> Browser:
    transport = httpx.ASGITransport(coordinator.app, raise_app_exceptions=False)
    return Browser(httpx.AsyncClient(transport=transport, base_url=base_url))


async def signed_in(coordinator: RunningCoordinator, token: str | None = None) -> Browser:
    """A browser with a session: the administrator's, or of another token."""
    browser = new_browser(coordinator)
    token = token or coordinator.admin["Authorization"].removeprefix("Bearer ")
    answer = await browser.sign_in(token)
    assert answer.status_code == 303, answer.text
    return browser
