"""PgBouncer in transaction mode, before a PostgreSQL that listens on a Unix socket."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

from tests.support.servers import free_port, wait_for_port
from tests.support.tools import find_tool

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
    port = free_port()
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
            wait_for_port(port, process, folder / "log")
            yield port
        finally:
            process.terminate()
            process.wait(10)
