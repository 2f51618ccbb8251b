"""The way to a coordinator: proxies, certificates, and what is said where there is none."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from shared.reaching import NoWay, Proxy, Silence, find_way, why_silent
from tests.support.certificates import new_authority

URL = "https://federation.example.org"
PROXY = "http://proxy.example.org:3128"


def proxy_of(url: str = URL, **environment: str) -> Proxy | None:
    return find_way(url, None, environment).proxy


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        (URL, "HTTPS_PROXY"),
        (URL, "https_proxy"),
        (URL, "ALL_PROXY"),
        ("http://federation.example.org", "HTTP_PROXY"),
        ("https://[fd00::1]:8400", "HTTPS_PROXY"),
    ],
)
def test_a_proxy_is_taken_from_the_environment(url: str, variable: str) -> None:
    assert proxy_of(url, **{variable: PROXY}) == Proxy(PROXY, variable)


def test_a_proxy_without_a_scheme_is_one_for_http() -> None:
    assert proxy_of(HTTPS_PROXY="proxy:3128") == Proxy("http://proxy:3128", "HTTPS_PROXY")


def test_a_proxy_for_the_other_scheme_is_not_taken() -> None:
    assert proxy_of(HTTP_PROXY=PROXY) is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:8400", "http://[::1]:8400", "http://localhost"])
def test_no_proxy_leads_to_this_machine(url: str) -> None:
    assert proxy_of(url, HTTP_PROXY="socks5://127.0.0.1:9", ALL_PROXY=PROXY) is None


@pytest.mark.parametrize(
    ("url", "no_proxy", "is_exempt"),
    [
        (URL, "example.org", True),
        (URL, ".example.org", True),
        (URL, "*.example.org", True),
        (URL, "a.net, FEDERATION.example.org", True),
        (URL, "*", True),
        (URL, "ation.example.org", False),
        (URL, "federation.example.org:443", False),
        (f"{URL}:8443", "federation.example.org:8443", True),
        (f"{URL}:8443", "federation.example.org:443", False),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://11.1.2.3", "10.0.0.0/8", False),
        ("https://[fd00::1]", "fd00::1", True),
        ("https://[fd00::1]", "[fd00::1]", True),
        ("https://[fd00::1]:8400", "[fd00::1]:8400", True),
        ("https://[fd00::1]", "fd00::/8", True),
        ("https://[fd00::1]", "::1,[fd00::2]", False),
        (URL, "::1,fe80::/10,,", False),
    ],
)
def test_no_proxy_names_hosts_suffixes_addresses_and_networks(
    url: str, no_proxy: str, is_exempt: bool
) -> None:
    assert (proxy_of(url, HTTPS_PROXY=PROXY, NO_PROXY=no_proxy) is None) == is_exempt


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:9", "ftp://127.0.0.1", "http://[::1", "http://h:x", "http://:3"]
)
def test_a_proxy_that_cannot_be_used_is_one_line_that_names_its_variable(proxy: str) -> None:
    with pytest.raises(NoWay, match=r"^the proxy that ALL_PROXY names cannot be used: .+$"):
        proxy_of(ALL_PROXY=proxy)


@pytest.mark.parametrize(
    "url",
    ["", "federation", "ftp://host", "http://", "http://[::1", "http://h:x", "http://h:99999"],
)
def test_what_is_no_address_is_named(url: str) -> None:
    with pytest.raises(NoWay, match=r"^'.*' cannot be used: .+$"):
        find_way(url, None, {})


def test_the_usual_authorities_are_trusted_where_none_is_named(tmp_path: Path) -> None:
    assert find_way(URL, None, {}).verify is True
    assert isinstance(find_way(URL, None, {"SSL_CERT_DIR": str(tmp_path)}).verify, ssl.SSLContext)


@pytest.mark.parametrize("by_environment", [True, False])
def test_a_named_authority_is_trusted_alone(tmp_path: Path, by_environment: bool) -> None:
    file = new_authority(tmp_path / "own").ca_file
    environment = {"SSL_CERT_FILE": str(file)} if by_environment else {}
    verify = find_way(URL, None if by_environment else file, environment).verify
    assert isinstance(verify, ssl.SSLContext)
    assert verify.cert_store_stats()["x509"] == 1


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
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(NoWay, match=f"^ca_file {file} {words}$"):
        find_way(URL, file, {})
    with pytest.raises(NoWay, match=f"^SSL_CERT_FILE {file} {words}$"):
        find_way(URL, None, {"SSL_CERT_FILE": str(file)})
    with pytest.raises(NoWay, match=f"^SSL_CERT_DIR {file} is no folder$"):
        find_way(URL, None, {"SSL_CERT_DIR": str(file)})


def test_silence_names_the_address_and_the_proxy_without_passwords() -> None:
    way = find_way(
        "https://me:mine@federation.example.org/hyperfl", None, {"HTTPS_PROXY": "http://u:p@h:1"}
    )
    assert why_silent(httpx.ConnectError("refused"), way) == Silence(
        "the coordinator at https://federation.example.org/hyperfl does not answer by the proxy "
        "http://h:1 that HTTPS_PROXY names: refused"
    )


def test_a_proxy_that_refuses_will_refuse_again() -> None:
    way = find_way(URL, None, {"HTTPS_PROXY": PROXY})
    assert not why_silent(httpx.ProxyError("407 Proxy Authentication Required"), way).may_heal
    assert why_silent(httpx.ProxyError("502 Bad Gateway"), way).may_heal


class _Portal(BaseHTTPRequestHandler):
    """Takes every request for itself and sends it to where nobody should go."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(301)
        self.send_header("Location", "http://login.example.org/")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def portal() -> Iterator[tuple[str, list[str]]]:
    handler = type("Portal", (_Portal,), {"asked": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", handler.asked
        finally:
            server.shutdown()
            thread.join()


def test_requests_go_by_the_proxy_and_follow_no_redirect() -> None:
    with portal() as (proxy, asked):
        way = find_way("http://federation.test/hyperfl", None, {"HTTP_PROXY": proxy})
        with httpx.Client(**way.client_options()) as client:
            assert client.get("/v1/federations").status_code == 301
    assert asked == ["http://federation.test/hyperfl/v1/federations"]
