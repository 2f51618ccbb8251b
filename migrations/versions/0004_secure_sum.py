"""secure sums: cards of clients, terms and messages of rounds, and phases between open and done.

Revision: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_BEFORE = "phase IN ('open', 'aggregating')"
_LIVE = "phase IN ('joining', 'open', 'confirming', 'unmasking', 'aggregating')"


def upgrade() -> None:
    op.add_column("clients", sa.Column("card", sa.Text(), nullable=True))
    op.add_column(
        "clients", sa.Column("joins", sa.Integer(), nullable=False, server_default=sa.text("0"))
    )
    op.add_column("rounds", sa.Column("terms", sa.Text(), nullable=True))
    op.add_column("rounds", sa.Column("metrics", sa.JSON(), nullable=True))
    _replace_live_index(_LIVE)
    op.create_table(
        "exchange_messages",
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("client_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["client_id"], ["clients.id"], name=op.f("fk_exchange_messages_client_id")
        ),
        sa.ForeignKeyConstraint(
            ["round_id"], ["rounds.id"], name=op.f("fk_exchange_messages_round_id")
        ),
        sa.PrimaryKeyConstraint("round_id", "client_id", "kind", name=op.f("pk_exchange_messages")),
    )
    op.create_table(
        "exchange_shares",
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("receiver_id", sa.Integer(), nullable=False),
        sa.Column("sender_id", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.String(), nullable=False),
        sa.Column("seed_check", sa.String(), nullable=False),
        sa.Column("mask_key_check", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["receiver_id"], ["clients.id"], name=op.f("fk_exchange_shares_receiver_id")
        ),
        sa.ForeignKeyConstraint(
            ["round_id"], ["rounds.id"], name=op.f("fk_exchange_shares_round_id")
        ),
        sa.ForeignKeyConstraint(
            ["sender_id"], ["clients.id"], name=op.f("fk_exchange_shares_sender_id")
        ),
        sa.PrimaryKeyConstraint(
            "round_id", "receiver_id", "sender_id", name=op.f("pk_exchange_shares")
        ),
    )


def downgrade() -> None:
    op.drop_table("exchange_shares")
    op.drop_table("exchange_messages")
    _replace_live_index(_BEFORE)
    op.drop_column("rounds", "metrics")
    op.drop_column("rounds", "terms")
    op.drop_column("clients", "joins")
    op.drop_column("clients", "card")


def _replace_live_index(phases: str) -> None:
    op.drop_index("uq_rounds_live", table_name="rounds")
    op.create_index(
        "uq_rounds_live",
        "rounds",
        ["federation_id"],
        unique=True,
        sqlite_where=sa.text(phases),
        postgresql_where=sa.text(phases),
    )
