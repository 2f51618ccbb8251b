"""The ``HYPERFL_*`` variables of both sides: a process finds no others, and none without a value.

A name that is misspelt, or a value that came out empty, would leave out without a word what it
was meant to say, such as TLS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

PREFIX = "HYPERFL_"

COORDINATOR_NAMES = frozenset(
    {
        "ADMIN_TOKEN_FILE",
        "AGGREGATION_LEASE_SECONDS",
        "DATABASE_CONNECTIONS",
        "DATABASE_CONNECT_SECONDS",
        "DATABASE_MIGRATION_SECONDS",
        "DATABASE_POOL_SECONDS",
        "DATABASE_TRANSACTION_SECONDS",
        "DATABASE_URL",
        "DATA_DIR",
        "ENROLMENT_TOKEN_SECONDS",
        "HEAD_SECONDS",
        "HOST",
        "JSON_BODY_SECONDS",
        "KEEP_ALIVE_SECONDS",
        "KEEP_EVERY_VERSION",
        "KEEP_LAST_VERSIONS",
        "LISTEN_BACKLOG",
        "LOG_LEVEL",
        "MAX_CONCURRENT_REQUESTS",
        "MAX_CONCURRENT_REQUESTS_PER_TOKEN",
        "MAX_CONNECTIONS",
        "MAX_CONNECTIONS_PER_ADDRESS",
        "MAX_DATABASE_BYTES",
        "MAX_HEADERS",
        "MAX_HEAD_BYTES",
        "MAX_TARGET_BYTES",
        "MAX_UPDATE_BYTES",
        "PLAINTEXT",
        "PORT",
        "REQUESTS_PER_SECOND_PER_ADDRESS",
        "REQUESTS_PER_SECOND_PER_TOKEN",
        "RESPONSE_STALL_SECONDS",
        "SHUTDOWN_SECONDS",
        "TICK_SECONDS",
        "TLS_CERTIFICATE",
        "TLS_KEY",
        "UNAUTHENTICATED_REQUESTS_PER_SECOND_PER_ADDRESS",
        "UPLOAD_SECONDS",
        "UPLOAD_STALL_SECONDS",
    }
)
WORKER_NAMES = frozenset(
    {
        "COORDINATOR_URL",
        "DEVICE",
        "GIVE_UP_AFTER_SECONDS",
        "LOG_LEVEL",
        "MAX_FACTOR_BYTES",
        "MAX_FEATURE_CACHE_BYTES",
        "POLL_WAIT_SECONDS",
        "REQUEST_TIMEOUT_SECONDS",
        "TRANSFER_SECONDS",
        "WORKER_CONFIG",
    }
)
"""``COORDINATOR_URL`` is read by the administrator's commands too."""


def check_environment(environment: Mapping[str, str], own_names: Iterable[str]) -> None:
    """Raises ValueError for a variable that is empty, or that neither side reads.

    Args:
        environment: variables by name; case does not matter, as it does not to the settings.
        own_names: of the settings that ask, without prefix and in any case.
    """
    known = COORDINATOR_NAMES | WORKER_NAMES | {name.upper() for name in own_names}
    for variable, value in sorted(environment.items()):
        if not variable.upper().startswith(PREFIX):
            continue
        name = variable.upper().removeprefix(PREFIX)
        if name not in known:
            near = [PREFIX + one for one in get_close_matches(name, sorted(known))]
            hint = f"; is it {' or '.join(near)}?" if near else ""
            raise ValueError(f"{variable} is not a setting{hint}")
        if not value:
            raise ValueError(f"{variable} is empty: give it a value or unset it")
