"""what the page needs: sign-ins, what rounds came to, and what workers say of themselves.

Revision: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_UNREPORTED = "closed_at IS NOT NULL AND report IS NULL"
_OF_WORKERS = ("worker_version", "torch_version", "device")


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("token_id", sa.Integer(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["token_id"], ["tokens.id"], name=op.f("fk_sessions_token_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("digest", name=op.f("uq_sessions_digest")),
    )
    op.create_index(op.f("ix_sessions_token_id"), "sessions", ["token_id"])
    op.add_column("rounds", sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("rounds", sa.Column("report", sa.Text(), nullable=True))
    op.create_index(
        "ix_rounds_unreported",
        "rounds",
        ["id"],
        sqlite_where=sa.text(_UNREPORTED),
        postgresql_where=sa.text(_UNREPORTED),
    )
    op.add_column(
        "clients",
        sa.Column("updates_recorded", sa.Integer(), nullable=False, server_default=sa.text("0")),
    )
    op.add_column("clients", sa.Column("num_examples", sa.BigInteger(), nullable=True))
    op.add_column("clients", sa.Column("last_reason", sa.Text(), nullable=True))
    op.execute(
        "UPDATE clients SET updates_recorded = (SELECT count(*) FROM updates "
        "JOIN assignments ON assignments.id = updates.assignment_id "
        "WHERE assignments.client_id = clients.id), "
        "num_examples = (SELECT updates.num_examples FROM updates "
        "JOIN assignments ON assignments.id = updates.assignment_id "
        "JOIN rounds ON rounds.id = assignments.round_id "
        "WHERE assignments.client_id = clients.id AND rounds.terms IS NULL "
        "ORDER BY assignments.id DESC LIMIT 1), "
        "last_reason = (SELECT reason FROM assignments "
        "WHERE client_id = clients.id AND reason IS NOT NULL ORDER BY id DESC LIMIT 1)"
    )
    for name in _OF_WORKERS:
        op.add_column("clients", sa.Column(name, sa.String(), nullable=True))


def downgrade() -> None:
    for name in _OF_WORKERS:
        op.drop_column("clients", name)
    op.drop_column("clients", "last_reason")
    op.drop_column("clients", "num_examples")
    op.drop_column("clients", "updates_recorded")
    op.drop_index("ix_rounds_unreported", table_name="rounds")
    op.drop_column("rounds", "report")
    op.drop_column("rounds", "claimed_at")
    op.drop_table("sessions")
