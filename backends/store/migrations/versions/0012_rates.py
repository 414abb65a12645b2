"""How often task runs with a tag begin is limited, and who is held back stands in a line.

Revision ID: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
MOMENT = sa.String(32).with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
DOCUMENT = sa.Text().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "task_rate_limit",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("limit", sa.Integer(), nullable=False),
        sa.Column("period", sa.Float(), nullable=False),
        sa.Column("begun", DOCUMENT, server_default=sa.text("'[]'"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_task_rate_limit"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_task_rate_limit_tenant_id", ondelete="CASCADE"),
        sa.UniqueConstraint("tenant_id", "tag", name="uq_task_rate_limit_tenant_id_tag"),
    )
    op.create_table(
        "task_line",
        sa.Column("limit_id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("due", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["task_run.id"], name="fk_task_line_run_id", ondelete="CASCADE"),
        sa.UniqueConstraint("run_id", "limit_id", name="uq_task_line_run_id_limit_id"),
        comment="which task run waits for its turn under which limit, and when it asks again",
    )
    op.create_index("ix_task_line_limit_id_rank_since_run_id", "task_line", ["limit_id", "rank", "since", "run_id"])
