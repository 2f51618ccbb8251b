"""Which requests are the page's, and how whoever sends them is known: by a cookie."""

from __future__ import annotations

from starlette.types import Scope

from coordinator.access.credentials import find_session_secret
from coordinator.settings import CoordinatorSettings

FOLDER = "/page"


def is_of_page(path: str) -> bool:
    """Whether a path is the page's."""
    return path in ("/", FOLDER) or path.startswith(f"{FOLDER}/")


def is_over_tls(scope: Scope, settings: CoordinatorSettings) -> bool:
    """Whether the browser speaks TLS, to this process or to the proxy in front of it."""
    return scope.get("scheme") == "https" or settings.plaintext == "behind-proxy"


def session_secret(scope: Scope, settings: CoordinatorSettings) -> str | None:
    """The secret of the session that a request of the page is sent under."""
    return find_session_secret(scope["headers"], is_over_tls=is_over_tls(scope, settings))
