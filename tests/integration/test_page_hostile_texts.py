"""What sites and people name and say is shown as text, wherever the page shows it."""

from __future__ import annotations

import re
from html import escape

import pytest
from sqlalchemy import select, update

from coordinator.store.tables import AuditRow, RoundRow, SessionRow, TokenRow
from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.page import signed_in
from tests.support.page_federation import Seeded, seed

pytestmark = [pytest.mark.integration, on_sqlite]

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}"
_MARKUP = re.compile(r"<script>|<img src=x|onerror=alert\(2\)>[^&]")


async def test_markup_is_text_in_every_place_that_shows_a_name_or_a_reason(
    coordinator: RunningCoordinator,
) -> None:
    """Names of the database are not checked again: a version before may have taken others."""
    await seed(coordinator.context, Seeded(clients=4, rounds=3, hostile=HOSTILE))
    browser = await signed_in(coordinator)
    async with coordinator.context.database.writing() as session:
        session.add(
            TokenRow(digest="x", kind="admin", name=HOSTILE, created_at=coordinator.clock())
        )
        await session.flush()
        token_id = (await session.scalars(select(TokenRow.id).where(TokenRow.digest == "x"))).one()
        session.add(
            SessionRow(
                digest="y",
                token_id=token_id,
                address=HOSTILE,
                created_at=coordinator.clock(),
                expires_at=coordinator.clock.now.replace(year=2030),
            )
        )
        session.add(
            AuditRow(
                at=coordinator.clock(),
                left_out=0,
                **dict.fromkeys(("actor", "action", "subject", "address", "outcome"), HOSTILE),
            )
        )
        await session.execute(update(RoundRow).values(reason=HOSTILE))
    hospitals = "/page/federations/hospitals"
    shown = {
        "/": 1,
        hospitals: 4,
        f"{hospitals}/clients": 16,
        f"{hospitals}/rounds": 4,
        f"{hospitals}/rounds/4": 5,
        f"{hospitals}/pause": 1,
        "/page/audit": 5,
        "/page/tokens": 1,
        "/page/sessions": 2,
    }
    for path, least in shown.items():
        page = await browser.text(path)
        assert page.count(escape("<script>alert(1)</script>")) >= least, path
        assert not _MARKUP.search(page), path
        assert "{{7*7}}" in page, path
    # What is wrong with a path or a form comes back as text, too.
    for path in (
        f"/page/{HOSTILE}",
        f"/page/federations/{HOSTILE}",
        f"{hospitals}/rounds/{HOSTILE}",
    ):
        answer = await browser.get(path)
        assert answer.status_code in (404, 422), path
        assert not _MARKUP.search(answer.text), path
