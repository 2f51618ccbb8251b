"""how far each client's private state has come, by which one from a backup is noticed.

Revision: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("clients", sa.Column("state_generation", sa.Integer(), nullable=True))
    op.add_column("clients", sa.Column("state_mark", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("clients", "state_mark")
    op.drop_column("clients", "state_generation")
