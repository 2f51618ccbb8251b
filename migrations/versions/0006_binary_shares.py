"""sealed shares are bytes, in the order in which they come; rounds say which number is next.

A round whose shares are there already fails, and is tried again: they are not carried over.

Revision: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rounds", sa.Column("next_number", sa.Integer(), nullable=True))
    op.drop_table("exchange_shares")
    op.create_table(
        "exchange_shares",
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("sender_id", sa.Integer(), nullable=False),
        sa.Column("receiver_id", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        *_constraints("sender_id", "receiver_id"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_column("rounds", "next_number")
    op.drop_table("exchange_shares")
    op.create_table(
        "exchange_shares",
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("receiver_id", sa.Integer(), nullable=False),
        sa.Column("sender_id", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.String(), nullable=False),
        sa.Column("seed_check", sa.String(), nullable=False),
        sa.Column("mask_key_check", sa.String(), nullable=False),
        *_constraints("receiver_id", "sender_id"),
    )


def _constraints(*clients: str) -> list[sa.Constraint]:
    return [
        *(
            sa.ForeignKeyConstraint([name], ["clients.id"], name=op.f(f"fk_exchange_shares_{name}"))
            for name in clients
        ),
        sa.ForeignKeyConstraint(
            ["round_id"], ["rounds.id"], name=op.f("fk_exchange_shares_round_id")
        ),
        sa.PrimaryKeyConstraint("round_id", *clients, name=op.f("pk_exchange_shares")),
    ]
