"""What a coordinator's address may be, and whether a URL leads over a network that others read."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

SCHEMES = ("http", "https")


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


def check_address(url: str) -> SplitResult:
    """The parts of a coordinator's address, such as ``https://federation.example.org/hyperfl``.

    Raises:
        ValueError: it is none; says what is wrong.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise ValueError("an address begins with http:// or https:// and a host")
    _ = parts.port  # raises too
    return parts


def without_password(url: str) -> str:
    """The URL without the name and password that it may have."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
