"""Certificates that a site names, and proxies that its environment names: wrong ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.certificates import new_authority
from worker.errors import ConfigError
from worker.remote.connection import Connection, CoordinatorAddress
from worker.remote.tls import tls_context

URL = "https://federation.example.org"


def connection(url: str = URL, ca_file: Path | None = None) -> Connection:
    address = CoordinatorAddress(
        url, request_timeout_seconds=1.0, transfer_seconds=1.0, ca_file=ca_file
    )
    return Connection(address, None)


def test_the_usual_authorities_are_trusted_where_none_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert tls_context(None) is True


@pytest.mark.parametrize("by_environment", [True, False])
def test_a_named_authority_is_trusted_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    file = new_authority(tmp_path / "own").ca_file
    if by_environment:
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = tls_context(None if by_environment else file)
    assert not isinstance(context, bool)
    assert context.cert_store_stats()["x509"] == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "has no certificate in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nx", "has no certificate in PEM"),
        (b"\xff\xfe\0", "has no certificate in PEM"),
    ],
)
def test_a_file_without_a_certificate_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, words: str
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^ca_file {file} {words}$"):
        connection(ca_file=file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(ConfigError, match=f"^SSL_CERT_FILE {file} {words}$"):
        connection()


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "ftp://127.0.0.1", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_one_line(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ConfigError, match=r"^the proxy that HTTP_PROXY, .* cannot be used: ") as e:
        connection()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8400", "http://[::1]:8400", "http://localhost"])
async def test_no_proxy_leads_to_this_machine(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    made = connection(url)
    assert made._http._mounts == {}
    await made.close()
