"""Serves a site's page from a thread of its own, while a worker runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog

from shared.addresses import is_loopback
from worker.errors import ConfigError
from worker.page.application import SitePage
from worker.settings import WorkerConfig, WorkerSettings

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1"})
_REQUEST_SECONDS = 10.0

_log = structlog.get_logger()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_SECONDS

    def log_message(self, *_: object) -> None:
        """A page that reloads itself would fill the log."""


@contextmanager
def served_page(config: WorkerConfig, settings: WorkerSettings) -> Iterator[int | None]:
    """Shows the page during the block, where the settings ask for one; the port it is at.

    Raises:
        ConfigError: the address cannot be listened on, or leads out of this machine and nobody
            named the hosts that the page is asked by.
    """
    if settings.site_page is None:
        yield None
        return
    host, _, port = settings.site_page.rpartition(":")
    if not is_loopback(host) and not settings.site_page_hosts:
        raise ConfigError(
            f"HYPERFL_SITE_PAGE: {host} is no address of this machine alone, and whoever reaches "
            "it reads the page: use 127.0.0.1, or say in HYPERFL_SITE_PAGE_HOSTS what it is called"
        )
    page = SitePage(config, _LOOPBACK_NAMES | {one.lower() for one in settings.site_page_hosts})
    try:
        server = make_server(host, int(port), page, _Server, _Handler)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"HYPERFL_SITE_PAGE: cannot listen on {settings.site_page}: {reason}"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="site-page", daemon=True)
    thread.start()
    _log.info("site page", address=f"http://{host}:{server.server_port}/")
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
