"""The one way in which workers and administrators' commands reach a coordinator over HTTP.

Which address, by which proxy, trusting which certificates; and why nobody answered. httpx's own
reading of the environment fails on IPv6 in NO_PROXY, and asks proxies for this machine.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx

from shared.addresses import SCHEMES, check_address, is_loopback, without_password
from shared.validation import InvalidInput

_TLS_HINT = "; if it serves TLS, use an https address"


class NoWay(InvalidInput):
    """An address, a proxy or a file of certificates cannot be used: one line that names it."""


@dataclass(frozen=True)
class Proxy:
    """A proxy that the environment names: ``url``, and in which ``variable``."""

    url: str
    variable: str

    def __str__(self) -> str:
        return f"the proxy {without_password(self.url)} that {self.variable} names"


@dataclass(frozen=True)
class Way:
    """How a coordinator is reached."""

    url: str
    proxy: Proxy | None
    verify: ssl.SSLContext | bool

    def client_options(self) -> dict[str, Any]:
        """What an HTTP client of httpx is made with; no redirect is followed.

        A redirect would take the credential, or the login page of a network, somewhere else.
        """
        return {
            "base_url": self.url,
            "proxy": None if self.proxy is None else self.proxy.url,
            "verify": self.verify,
            "trust_env": False,
            "follow_redirects": False,
        }


@dataclass(frozen=True)
class Silence:
    """Why nobody answered, in one line; and whether asking again may help."""

    reason: str
    may_heal: bool = True


def find_way(url: str, ca_file: Path | None, environment: Mapping[str, str] = os.environ) -> Way:
    """The way to the coordinator at ``url``.

    Args:
        url: of the coordinator; it may have a path.
        ca_file: certificates that are trusted instead of the usual ones.
        environment: names proxies (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY) and certificates
            (SSL_CERT_FILE, SSL_CERT_DIR).

    Raises:
        NoWay: one of them cannot be used.
    """
    try:
        address = check_address(url)
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise NoWay(f"{url!r} cannot be used: {error}") from None
    return Way(url, _proxy_for(address, environment), _trusted(ca_file, environment))


def why_silent(error: httpx.TransportError, way: Way) -> Silence:
    """Why a request had no answer."""
    where = f"the coordinator at {without_password(way.url)}"
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError) and (fault := _tls_fault(error)) is not None:
        if isinstance(fault, ssl.SSLCertVerificationError):
            return Silence(
                f"{where} is not trusted: certificate verify failed: {fault.verify_message}; if "
                "the certificate is of an authority of your own, set ca_file in worker.toml, or "
                "SSL_CERT_FILE",
                may_heal=False,
            )
        return Silence(
            f"{where} speaks no TLS that can be understood: {reason}; if it serves none, use an "
            "http address",
            may_heal=False,
        )
    if isinstance(error, httpx.ReadError | httpx.RemoteProtocolError):
        reason += _TLS_HINT if way.url.startswith("http:") else ""  # as a port for TLS cuts off
    if way.proxy is None:
        return Silence(f"{where} does not answer: {reason}")
    is_refused = isinstance(error, httpx.ProxyError) and reason[:1] == "4"
    return Silence(f"{where} does not answer by {way.proxy}: {reason}", may_heal=not is_refused)


def _proxy_for(address: SplitResult, environment: Mapping[str, str]) -> Proxy | None:
    host = address.hostname or ""
    if is_loopback(host) or _is_exempt(host, address.port, _said("no_proxy", environment)[1]):
        return None  # no proxy leads back to this machine
    for name in (f"{address.scheme}_proxy", "all_proxy"):
        variable, url = _said(name, environment)
        if url:
            return _checked_proxy(url if "://" in url else f"http://{url}", variable)
    return None


def _said(name: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """A variable's name and value; as for other programs the small letters come first."""
    for variable in (name, name.upper()):
        if environment.get(variable):
            return variable, environment[variable].strip()
    return name.upper(), ""


def _checked_proxy(url: str, variable: str) -> Proxy:
    try:
        parts = urlsplit(url)
        _ = parts.port
        if parts.scheme not in SCHEMES or not parts.hostname:
            raise ValueError("only http:// and https:// proxies are used")
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise NoWay(f"the proxy that {variable} names cannot be used: {error}") from None
    return Proxy(url, variable)


def _is_exempt(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether NO_PROXY has the host: by name, by a suffix of it, by address or network, or ``*``.

    An entry may end with a port, which then must be the address's.
    """
    return any(
        _matches(host, port, entry.strip().lower())
        for entry in no_proxy.split(",")
        if entry.strip()
    )


def _matches(host: str, port: int | None, entry: str) -> bool:
    if entry == "*":
        return True
    try:
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        name, colon, number = entry.rpartition(":")
        if colon and number.isdigit():
            return int(number) == port and _matches(host, port, name)
        suffix = entry.lstrip("*").lstrip(".")
        return host == suffix or host.endswith(f".{suffix}")
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False


def _trusted(ca_file: Path | None, environment: Mapping[str, str]) -> ssl.SSLContext | bool:
    """The certificates to trust; True for the usual ones."""
    named, folder = environment.get("SSL_CERT_FILE"), environment.get("SSL_CERT_DIR")
    if ca_file is None and not named:
        if not folder:
            return True
        if not Path(folder).is_dir():
            raise NoWay(f"SSL_CERT_DIR {folder} is no folder")
        return ssl.create_default_context(capath=folder)
    file = ca_file or Path(str(named))
    what = "ca_file" if ca_file else "SSL_CERT_FILE"
    try:
        return ssl.create_default_context(cafile=str(file))
    except ssl.SSLError as error:
        raise NoWay(f"{what} {file} has no certificate in PEM") from error
    except OSError as error:
        raise NoWay(f"{what} {file} cannot be read: {error.strerror}") from error


def _tls_fault(error: BaseException) -> ssl.SSLError | None:
    """What went wrong in TLS, among an error's causes; None if a connection was only cut off."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
