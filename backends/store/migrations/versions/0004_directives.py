"""What people ask of flow runs is recorded.

Revision ID: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
MOMENT = sa.String(32).with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
DOCUMENT = sa.Text().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Add the table of directives."""
    op.create_table(
        "directive",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("flow_run_id", ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("author", sa.Text()),
        sa.Column("task", sa.Text()),
        sa.Column("map_index", sa.Integer(), server_default=sa.text("-1"), nullable=False),
        sa.Column("value", DOCUMENT),
        sa.Column("note", sa.Text()),
        sa.Column("obeyed", MOMENT),
        sa.Column("epoch", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name="pk_directive"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_directive_tenant_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["flow_run_id"], ["flow_run.id"], name="fk_directive_flow_run_id", ondelete="CASCADE"),
    )
    op.create_index("ix_directive_flow_run_id_created", "directive", ["flow_run_id", "created"])
