"""``hyperfl coordinator``: serve, migrate, backup, restore."""

from __future__ import annotations

import logging
import sqlite3
import ssl
import sys
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
import uvicorn
from sqlalchemy.exc import SQLAlchemyError

from coordinator.app import create_app
from coordinator.backup import BackupError, back_up, restore, sqlite_file
from coordinator.commands.failures import one_line_errors
from coordinator.commands.output import print_json
from coordinator.context import Context
from coordinator.http_limits import bounded_protocol, http_limits
from coordinator.migrate import NewerSchemaError, migrate
from coordinator.settings import CoordinatorSettings

coordinator = typer.Typer(no_args_is_help=True, add_completion=False, help="Run the coordinator.")

DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of the SQLite file and the admin token.")
]
DatabaseUrlOption = Annotated[
    str | None, typer.Option("--database-url", help="postgresql://… or sqlite:///path")
]


@coordinator.command()
def serve(
    data_dir: DataDirOption = None,
    database_url: DatabaseUrlOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate and those above it.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file with its key.")] = None,
) -> None:
    """Serve the REST interface; the database is migrated first.

    Every option can be set in the environment too, such as HYPERFL_DATABASE_URL. Addresses that
    other machines reach need TLS, or HYPERFL_PLAINTEXT=behind-proxy.

    Example: hyperfl coordinator serve --data-dir /var/lib/hyperfl --port 8400
    """
    with one_line_errors(NewerSchemaError, SQLAlchemyError, ValueError):
        settings = _settings(
            data_dir=data_dir,
            database_url=database_url,
            host=host,
            port=port,
            tls_certificate=tls_certificate,
            tls_key=tls_key,
        )
        settings.require_protection()
        _check_certificate(settings)
        _configure_logging(settings.log_level)
        _migrate(settings)
        app = create_app(settings)
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            access_log=False,
            log_config=None,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            http=bounded_protocol(http_limits(settings)),
            ws="none",
            backlog=settings.listen_backlog,
            timeout_keep_alive=settings.keep_alive_seconds,
            timeout_graceful_shutdown=settings.shutdown_seconds,
        )
        server = _Server(config, app.state.context)
        server.run()
    if not server.started:
        raise typer.Exit(1)


@coordinator.command("migrate")
def migrate_command(
    data_dir: DataDirOption = None,
    database_url: DatabaseUrlOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring the database's schema up to date, and stop.

    Example: hyperfl coordinator migrate --database-url postgresql://hyperfl@db/hyperfl
    """
    with one_line_errors(NewerSchemaError, SQLAlchemyError, ValueError):
        settings = _settings(data_dir=data_dir, database_url=database_url)
        before, after = _migrate(settings)
    if as_json:
        print_json({"before": before, "after": after})
    else:
        typer.echo(f"schema {before or 'none'} -> {after}")


@coordinator.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    data_dir: DataDirOption = None,
    database_url: DatabaseUrlOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Copy the SQLite database to a file, consistently, also while a coordinator serves it.

    The admin token is not in it: keep a copy of its file too. For PostgreSQL use pg_dump.

    Example: hyperfl coordinator backup /backups/hyperfl-monday.db
    """
    with one_line_errors(BackupError, NewerSchemaError, sqlite3.Error, ValueError):
        settings = _settings(data_dir=data_dir, database_url=database_url)
        schema = back_up(settings.effective_database_url, file)
    _print_copy(file, schema, as_json)


@coordinator.command("restore")
def restore_command(
    file: Annotated[Path, typer.Argument(help="A file that `coordinator backup` wrote.")],
    data_dir: DataDirOption = None,
    database_url: DatabaseUrlOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a backup the SQLite database, after checking it; refuses where there is one already.

    Example: hyperfl coordinator restore /backups/hyperfl-monday.db --data-dir /var/lib/hyperfl
    """
    with one_line_errors(BackupError, NewerSchemaError, sqlite3.Error, ValueError):
        settings = _settings(data_dir=data_dir, database_url=database_url)
        url = settings.effective_database_url
        schema = restore(file, url)
    _print_copy(sqlite_file(url), schema, as_json)


def _print_copy(file: Path, schema: str, as_json: bool) -> None:
    copied = {"file": str(file), "size_bytes": file.stat().st_size, "schema": schema}
    if as_json:
        print_json(copied)
    else:
        typer.echo(f"{file}: {copied['size_bytes']} bytes, schema {schema}")


def _migrate(settings: CoordinatorSettings) -> tuple[str | None, str]:
    return migrate(
        settings.effective_database_url,
        connect_seconds=settings.database_connect_seconds,
        wait_seconds=settings.database_migration_seconds,
    )


def _check_certificate(settings: CoordinatorSettings) -> None:
    """Raises ValueError with the files' names; what OpenSSL says has none."""
    if settings.tls_certificate is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:
        raise ValueError(
            f"{settings.tls_certificate} and {settings.tls_key} are not a certificate and its "
            f"key: {error}"
        ) from error


def _settings(**given: Any) -> CoordinatorSettings:
    return CoordinatorSettings(
        **{name: value for name, value in given.items() if value is not None}
    )


class _Server(uvicorn.Server):
    """Says where it listens, and ends long polls when it is told to stop."""

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self._context = context

    async def startup(self, sockets: Any = None) -> None:
        """Starts to listen, then says where: with port 0 only now is it known."""
        await super().startup(sockets)
        for server in getattr(self, "servers", []):
            for socket in server.sockets:
                host, port = socket.getsockname()[:2]
                structlog.get_logger().info("listening", host=host, port=port)

    async def shutdown(self, sockets: Any = None) -> None:
        """Ends long polls, so that stopping does not wait for them."""
        self._context.tasks_bell.close()
        await super().shutdown(sockets)


def _configure_logging(level: str) -> None:
    """One event a line on stderr: JSON, or coloured text on a terminal."""
    numeric_level = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numeric_level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
