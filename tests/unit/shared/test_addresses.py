"""Which URLs stay on this machine or have TLS."""

from __future__ import annotations

import pytest

from shared.addresses import unprotected_host


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8400",
        "http://127.9.9.9",
        "http://[::1]:8400/prefix",
        "http://localhost:8400",
        "http://LOCALHOST",
        "https://federation.example.org",
        "HTTPS://10.0.0.1",
    ],
)
def test_tls_or_this_machine_is_protected(url: str) -> None:
    assert unprotected_host(url) is None


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://federation.example.org", "federation.example.org"),
        ("http://10.0.0.1:8400", "10.0.0.1"),
        ("http://0.0.0.0", "0.0.0.0"),
        ("http://127.0.0.1.example.org", "127.0.0.1.example.org"),
        ("http://localhost@example.org", "example.org"),
        ("http://localhost.example.org", "localhost.example.org"),
        ("http://[fe80::1]", "fe80::1"),
        ("ftp://example.org", "example.org"),
        ("http://", ""),
        ("example.org", ""),
    ],
)
def test_all_else_can_be_read_on_the_way(url: str, host: str) -> None:
    assert unprotected_host(url) == host
