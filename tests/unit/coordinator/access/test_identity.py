"""Who sends a request, as far as no database is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.access.identity import ClientPrincipal, identify
from coordinator.errors import Forbidden, Unauthenticated
from coordinator.store.tables import ClientRow, FederationRow

NO_DATABASE: Any = None
PRINCIPAL = ClientPrincipal(ClientRow(name="site-a"), FederationRow(name="hospitals"), token_id=1)


def test_a_client_may_name_only_its_own_federation() -> None:
    PRINCIPAL.require_federation("hospitals")
    for other in ("banks", "hospital", "Hospitals", ""):
        with pytest.raises(Forbidden, match="this token belongs to federation hospitals"):
            PRINCIPAL.require_federation(other)


def test_a_client_may_name_only_itself() -> None:
    PRINCIPAL.require_client("site-a")
    for other in ("site-b", "site", "hospitals", ""):
        with pytest.raises(Forbidden, match="this token belongs to client site-a"):
            PRINCIPAL.require_client(other)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer    ", "Basic YTpi", "hyperfl-admin-x"]
)
async def test_a_header_without_a_bearer_token_is_refused_before_the_database_is_asked(
    header: str | None,
) -> None:
    context: Any = SimpleNamespace(database=NO_DATABASE)
    with pytest.raises(Unauthenticated, match="Authorization: Bearer TOKEN"):
        await identify(context, header)
