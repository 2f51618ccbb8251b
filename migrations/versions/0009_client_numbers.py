"""clients have a number in their federation, by which a method gives each a place of its own.

Revision: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "clients", sa.Column("number", sa.Integer(), nullable=False, server_default=sa.text("0"))
    )
    op.execute(
        "UPDATE clients SET number = (SELECT count(*) FROM clients AS earlier "
        "WHERE earlier.federation_id = clients.federation_id AND earlier.id < clients.id)"
    )
    op.create_index("ix_clients_number", "clients", ["federation_id", "number"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_clients_number", table_name="clients")
    op.drop_column("clients", "number")
