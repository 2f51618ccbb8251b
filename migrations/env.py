"""Alembic's entry: a connection of ``coordinator.database.migrate``, or ``-x url=…`` by hand."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine

from coordinator.store import tables


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=tables.BlobRow.metadata, render_as_batch=True
    )
    with context.begin_transaction():
        context.run_migrations()


_given = context.config.attributes.get("connection")
if _given is not None:
    _run(_given)
else:
    with create_engine(context.get_x_argument(as_dictionary=True)["url"]).begin() as _connection:
        _run(_connection)
