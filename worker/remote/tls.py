"""Which certificates a site trusts, and what went wrong where TLS did not begin."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from worker.errors import ConfigError


def tls_context(ca_file: Path | None) -> ssl.SSLContext | bool:
    """Of the site's own authority, from ``ca_file`` or ``SSL_CERT_FILE``; True for the usual ones.

    Raises:
        ConfigError: the file cannot be read, or has no certificate.
    """
    named = os.environ.get("SSL_CERT_FILE")
    if ca_file is None and not named:
        return True
    file = ca_file or Path(str(named))
    what = "ca_file" if ca_file else "SSL_CERT_FILE"
    try:
        context = ssl.create_default_context(cafile=str(file))
    except ssl.SSLError as error:
        raise ConfigError(f"{what} {file} has no certificate in PEM") from error
    except OSError as error:
        raise ConfigError(f"{what} {file} cannot be read: {error.strerror}") from error
    return context


def tls_fault(error: BaseException) -> ssl.SSLError | None:
    """What went wrong in TLS, among an error's causes; None if a connection was only cut off."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
