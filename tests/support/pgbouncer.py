"""PgBouncer in transaction mode, before a PostgreSQL that listens on a Unix socket."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

from tests.support.tools import find_tool

_START_SECONDS = 10.0
_CONFIGURATION = """\
[databases]
* = host={host} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {server_connections}
max_client_conn = 100
"""


@contextmanager
def pgbouncer(server_url: str, server_connections: int) -> Iterator[int]:
    """The port on which it listens until the block ends.

    It runs as the server's user: it does not run as root.
    """
    program = find_tool("pgbouncer", "pgbouncer")
    url = make_url(server_url)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(
            _CONFIGURATION.format(
                host=url.query["host"],
                user=url.username,
                port=port,
                server_connections=server_connections,
            )
        )
        owner = Path(str(url.query["host"])).stat().st_uid
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [program, str(configuration)],
                stdout=log,
                stderr=log,
                user=None if owner == os.getuid() else owner,
            )
        try:
            _wait_for(port, process, folder / "log")
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up_at and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(log.read_text())
