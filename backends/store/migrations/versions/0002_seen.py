"""What a page needs: what wants attention, the newest of each kind, parents, artifacts of a run, workers.

Revision ID: 0002
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
MOMENT = sa.String(32).with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
DOCUMENT = sa.Text().with_variant(postgresql.JSONB(), "postgresql")

ATTENTION = "('Failed', 'Paused', 'Retrying', 'TimedOut', 'TriggerFailed', 'ValidationFailed')"


def where(condition: str) -> dict[str, Any]:
    """Return the options of an index that has the rows that meet a condition only."""
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def refer(table: str, column: str, target: str) -> None:
    """Add a column that refers to another table; SQLite takes the reference with the column only."""
    kind = ID.compile(op.get_bind().dialect)
    op.execute(
        f"ALTER TABLE {table} ADD COLUMN {column} {kind} "
        f"CONSTRAINT fk_{table}_{column} REFERENCES {target} (id) ON DELETE CASCADE"
    )


def upgrade() -> None:
    """Add the columns, the indexes and the table of workers."""
    op.add_column("task_run", sa.Column("attention", sa.Text()))
    op.add_column("task_run", sa.Column("attention_at", MOMENT))
    op.execute(f"UPDATE task_run SET attention = state, attention_at = state_timestamp WHERE state IN {ATTENTION}")
    attention = where("attention IS NOT NULL")
    op.create_index("ix_task_run_attention", "task_run", ["attention", "attention_at"], **attention)
    op.create_index("ix_task_run_attention_of_run", "task_run", ["flow_run_id", "attention_at"], **attention)

    op.add_column("flow_run", sa.Column("parent_task_run_id", ID))
    parents = where("parent_task_run_id IS NOT NULL")
    op.create_index("ix_flow_run_parent_task_run_id", "flow_run", ["parent_task_run_id"], **parents)
    op.create_index("ix_flow_run_flow_id_created", "flow_run", ["flow_id", "created"])
    op.create_index("ix_flow_run_state_created", "flow_run", ["state", "created"])
    op.create_index("ix_flow_run_due", "flow_run", ["scheduled_start_time"], **where("state = 'Scheduled'"))

    refer("task_run_artifact", "flow_run_id", "flow_run")
    op.execute(
        "UPDATE task_run_artifact SET flow_run_id = "
        "(SELECT flow_run_id FROM task_run WHERE task_run.id = task_run_artifact.task_run_id)"
    )
    op.create_index("ix_task_run_artifact_flow_run_id_created", "task_run_artifact", ["flow_run_id", "created"])

    refer("api_key", "parent_id", "api_key")
    op.create_index("ix_api_key_parent_id", "api_key", ["parent_id"])

    op.create_table(
        "worker",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", DOCUMENT, server_default=sa.text("'[]'"), nullable=False),
        sa.Column("flow_names", DOCUMENT),
        sa.Column("room", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_worker"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_worker_tenant_id", ondelete="CASCADE"),
        sa.UniqueConstraint("tenant_id", "name", name="uq_worker_tenant_id_name"),
    )
