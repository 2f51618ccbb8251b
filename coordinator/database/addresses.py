"""Which databases a URL may name. What is wrong with one is said without its password."""

from __future__ import annotations

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

_DATABASES = ("sqlite", "postgresql")
_OTHER_NAMES = {"postgres": "postgresql"}
"""Of schemes, as others write them."""
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""https://www.postgresql.org/docs/current/libpq-ssl.html"""


def checked_database_url(url: str) -> str:
    """The URL of a SQLite or PostgreSQL database, with the scheme that the drivers know.

    Raises:
        ValueError: it is none, or says what no PostgreSQL can be asked.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme in _OTHER_NAMES:
        url = f"{_OTHER_NAMES[scheme]}://{rest}"
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        raise ValueError(
            "not a URL such as postgresql://user@host/name; write @ : / ? # % in a user's name "
            "or password as %40 %3A %2F %3F %23 %25"
        ) from None
    if backend not in _DATABASES:
        raise ValueError(f"{backend} is not one of {', '.join(_DATABASES)}")
    if backend == "postgresql":
        if "@" in (parsed.host or ""):
            raise ValueError("there is an @ before the host's own: write it as %40 in a password")
        mode = parsed.query.get("sslmode", "prefer")
        if mode not in _SSL_MODES:
            raise ValueError(f"sslmode is {mode}, and not one of {', '.join(_SSL_MODES)}")
        _check_options(dict(parsed.query))
    return url


def _check_options(options: dict[str, object]) -> None:
    from psycopg import ProgrammingError  # noqa: PLC0415 - slow, and seldom needed
    from psycopg.conninfo import make_conninfo  # noqa: PLC0415

    try:
        make_conninfo(**options)  # type: ignore[arg-type]
    except ProgrammingError as error:
        raise ValueError(f"after the ?: {str(error).partition(chr(10))[0]}") from None
