"""What people are told of flow runs is noted, so that it is told once.

Revision ID: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
MOMENT = sa.String(32).with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    """Add the table, and to each rule until when it has looked."""
    op.add_column("cloud_hook", sa.Column("seen", MOMENT))
    op.create_table(
        "notification",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("cloud_hook_id", ID, nullable=False),
        sa.Column("flow_run_id", ID, nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("message", sa.Text()),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_attempt", MOMENT),
        sa.Column("sent", MOMENT),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_notification"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_notification_tenant_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["cloud_hook_id"], ["cloud_hook.id"], name="fk_notification_cloud_hook_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["flow_run_id"], ["flow_run.id"], name="fk_notification_flow_run_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint(
            "cloud_hook_id", "flow_run_id", "key", name="uq_notification_cloud_hook_id_flow_run_id_key"
        ),
    )
    op.create_index("ix_notification_flow_run_id", "notification", ["flow_run_id"])
    due = sa.text("next_attempt IS NOT NULL")
    op.create_index("ix_notification_due", "notification", ["next_attempt"], sqlite_where=due, postgresql_where=due)
