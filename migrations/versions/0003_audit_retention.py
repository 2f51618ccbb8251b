"""audit events may be deleted once they are thirty days old.

Revision: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MESSAGE = "audit_events younger than thirty days stay"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER audit_events_refuse_delete")
        op.execute(
            "CREATE TRIGGER audit_events_refuse_delete BEFORE DELETE ON audit_events "
            "WHEN OLD.at > datetime('now', '-30 days') "
            f"BEGIN SELECT RAISE(ABORT, '{_MESSAGE}'); END"
        )
        return
    op.execute("DROP TRIGGER audit_events_refuse_change ON audit_events")
    op.execute(
        "CREATE TRIGGER audit_events_refuse_change BEFORE UPDATE OR TRUNCATE "
        "ON audit_events FOR EACH STATEMENT EXECUTE FUNCTION audit_events_refuse_change()"
    )
    op.execute(
        "CREATE FUNCTION audit_events_refuse_delete() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_MESSAGE}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_events_refuse_delete BEFORE DELETE ON audit_events FOR EACH ROW "
        "WHEN (OLD.at > now() - interval '30 days') "
        "EXECUTE FUNCTION audit_events_refuse_delete()"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER audit_events_refuse_delete")
        op.execute(
            "CREATE TRIGGER audit_events_refuse_delete BEFORE DELETE ON audit_events "
            "BEGIN SELECT RAISE(ABORT, 'audit_events is append-only'); END"
        )
        return
    op.execute("DROP TRIGGER audit_events_refuse_delete ON audit_events")
    op.execute("DROP FUNCTION audit_events_refuse_delete")
    op.execute("DROP TRIGGER audit_events_refuse_change ON audit_events")
    op.execute(
        "CREATE TRIGGER audit_events_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE "
        "ON audit_events FOR EACH STATEMENT EXECUTE FUNCTION audit_events_refuse_change()"
    )
