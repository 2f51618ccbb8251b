"""nginx and Caddy with the examples of docs/operating, in front of a coordinator of the tests'."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import PROJECT
from tests.support.servers import free_port, wait_for_port
from tests.support.tools import find_tool

_EXAMPLES = PROJECT / "docs" / "operating"
_NGINX = """\
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{servers}
}}
"""
_CADDY = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"


@contextmanager
def proxy(
    name: str, coordinator_port: int, certificate: Path, key: Path, folder: Path
) -> Iterator[str]:
    """Its address, with the example's settings and other ports and files, until the block ends."""
    program = find_tool(name, {"nginx": "nginx-light"}.get(name, name))
    port = free_port()
    changes = {
        "127.0.0.1:8400": f"127.0.0.1:{coordinator_port}",
        f"/etc/{name}/fullchain.pem": str(certificate),
        f"/etc/{name}/privkey.pem": str(key),
    }
    if name == "nginx":
        file, changes["listen 443 ssl"] = folder / "nginx.conf", f"listen 127.0.0.1:{port} ssl"
        text = _changed("nginx.conf", changes)
        file.write_text(_NGINX.format(folder=folder, servers=text))
        command = [program, "-p", str(folder), "-c", str(file)]
    else:
        file = folder / "Caddyfile"
        changes["\nfederation.example.org {"] = f"\nhttps://127.0.0.1:{port} {{"
        file.write_text(_CADDY + _changed("Caddyfile", changes))
        command = [program, "run", "--config", str(file), "--adapter", "caddyfile"]
    with (folder / "log").open("w") as log:
        environment = {"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/bin"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        wait_for_port(port, process, folder / "log")
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _changed(example: str, changes: dict[str, str]) -> str:
    text = (_EXAMPLES / example).read_text()
    for old, new in changes.items():
        assert old in text, f"{example} has no {old!r}"
        text = text.replace(old, new)
    return text
