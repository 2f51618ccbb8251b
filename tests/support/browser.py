"""Debian's chromium, driven by Playwright, at a page of a coordinator that listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.support.tools import find_tool

_PATIENCE_MS = 30_000
"""A page is there within a second, unless the machine has other tests to run."""
_HARMLESS = "Failed to load resource"
"""How the browser reports an answer of 400 and above, or none, which tests ask for."""


def find_chromium() -> str:
    """Where it is, or a skip."""
    return find_tool("chromium", "chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Playwright's own browsers are not fetched."""
    found = find_chromium()
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, chromium_sandbox=False)
        try:
            yield launched
        finally:
            launched.close()


@dataclass
class Tab:
    """A page in a browser, and what its scripts and its policy complained of."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._note)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(_HARMLESS):
            self.complaints.append(message.text)

    def go(self, path: str) -> None:
        self.page.goto(self.url + path)

    def sign_in(self, token: str) -> None:
        self.go("/page/sign-in")
        self.page.get_by_label("Token").fill(token)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url(f"{self.url}/")

    def serious_faults(self, rules: list[str] | None = None) -> list[str]:
        """What axe finds that keeps people out, by all of its rules or by some."""
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        if rules is not None:
            options["runOnly"] = rules
        found: list[dict[str, Any]] = Axe().run(self.page, options=options).response["violations"]
        return [
            f"{one['id']}: {one['nodes'][0]['html'][:200]}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]

    def is_too_wide(self) -> bool:
        width: bool = self.page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        return width


@contextmanager
def tab(browser: Browser, url: str, token: str | None = None, **options: Any) -> Iterator[Tab]:
    """A page of its own, with its own cookies; signed in with ``token``."""
    context = browser.new_context(**options)
    try:
        opened = Tab(context.new_page(), url)
        if token is not None:
            opened.sign_in(token)
        yield opened
    finally:
        context.close()
