"""Where a URL leads: to this machine, or over a network that others may read."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def unprotected_host(url: str) -> str | None:
    """The host that a URL leads to without TLS; None if it has TLS, or stays on this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return None if parts.scheme == "https" or is_loopback(host) else host
