"""The coordinator image's health check: exits 0 if ``/readyz`` answers 200 in this container."""

from __future__ import annotations

import sys

import httpx

from coordinator.settings import CoordinatorSettings

_TIMEOUT_SECONDS = 8.0


def is_ready(settings: CoordinatorSettings, transport: httpx.BaseTransport | None = None) -> bool:
    """Whether the coordinator with these settings serves, with its database at hand."""
    scheme = "http" if settings.tls_certificate is None else "https"
    url = f"{scheme}://127.0.0.1:{settings.port}/readyz"
    # The certificate names the public host, and a proxy of the environment is for others.
    with httpx.Client(
        verify=False,  # noqa: S501
        trust_env=False,
        timeout=_TIMEOUT_SECONDS,
        transport=transport,
    ) as client:
        try:
            return client.get(url).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


if __name__ == "__main__":
    sys.exit(0 if is_ready(CoordinatorSettings()) else 1)
