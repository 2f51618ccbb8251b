"""``hyperfl coordinator``: run the coordinator; migrate, back up and restore its database.

The server and the database are imported by the commands that need them.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.errors import BackupError, NewerSchemaError, TaskEnded
from coordinator.settings import CoordinatorSettings
from shared.terminal.failures import one_line_errors
from shared.terminal.logs import configure_logging
from shared.terminal.tables import print_json
from shared.tracing.spans import recorded

coordinator = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Run the coordinator; migrate, back up and restore its database.",
)

DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of the SQLite file and the admin token.")
]
DatabaseUrlOption = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        help="postgresql://… or sqlite:///PATH; the default is SQLite in the data folder.",
    ),
]


@coordinator.command()
def serve(
    data_dir: DataDirOption = None,
    database_url: DatabaseUrlOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate chain.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate's private key.")
    ] = None,
) -> None:
    """Migrate the database if needed, then serve the REST interface.

    Each option can be set in the environment too, for example
    HYPERFL_DATABASE_URL. Addresses that other machines reach need TLS, or
    HYPERFL_PLAINTEXT=behind-proxy.

    Example: hyperfl coordinator serve --data-dir /var/lib/hyperfl --port 8400
    """
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from coordinator.app import create_app  # noqa: PLC0415
    from coordinator.serving import server  # noqa: PLC0415

    with one_line_errors(NewerSchemaError, SQLAlchemyError, TaskEnded, ValueError):
        settings = _settings(
            data_dir=data_dir,
            database_url=database_url,
            host=host,
            port=port,
            tls_certificate=tls_certificate,
            tls_key=tls_key,
        )
        settings.require_protection()
        server.check_certificate(settings)
        configure_logging(settings.log_level, settings.log_format)
        with recorded(settings.traces, "hyperfl-coordinator"):
            sockets = server.bind(settings)
            _migrate(settings)
            has_served = server.serve(create_app(settings), settings, sockets)
    if not has_served:
        raise typer.Exit(1)


@coordinator.command("migrate")
def migrate_command(
    data_dir: DataDirOption = None,
    database_url: DatabaseUrlOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring the database's schema up to date, then exit.

    Example: hyperfl coordinator migrate --database-url postgresql://hyperfl@db/hyperfl
    """
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

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
    """Back up the SQLite database to a file, even while a coordinator serves it.

    The copy is consistent. It does not contain the admin token: back up its file
    too. For PostgreSQL use pg_dump.

    Example: hyperfl coordinator backup /backups/monday.db
    """
    from coordinator.database.backup import back_up  # noqa: PLC0415

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
    """Check a backup and restore the SQLite database from it.

    The command refuses to replace a database that exists.

    Example: hyperfl coordinator restore /backups/monday.db --data-dir /var/lib/hyperfl
    """
    from coordinator.database.backup import restore, sqlite_file  # noqa: PLC0415

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
    from coordinator.database.migrate import migrate  # noqa: PLC0415

    return migrate(
        settings.effective_database_url,
        connect_seconds=settings.database_connect_seconds,
        wait_seconds=settings.database_migration_seconds,
    )


def _settings(**given: Any) -> CoordinatorSettings:
    return CoordinatorSettings(
        **{name: value for name, value in given.items() if value is not None}
    )
