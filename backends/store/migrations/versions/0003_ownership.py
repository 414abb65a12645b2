"""Flow runs get owners: what workers had reserved is theirs, under an epoch.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MOMENT = sa.String(32).with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
OWNED = sa.text("owner IS NOT NULL")


def upgrade() -> None:
    """Add the columns of ownership, and turn reservations into it."""
    op.add_column("flow_run", sa.Column("owner", sa.Text()))
    op.add_column("flow_run", sa.Column("epoch", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("flow_run", sa.Column("lease_expires", MOMENT))
    op.add_column("flow_run", sa.Column("lease_seconds", sa.Float()))
    op.create_index("ix_flow_run_owner", "flow_run", ["owner"], sqlite_where=OWNED, postgresql_where=OWNED)
    op.execute(
        "UPDATE flow_run SET owner = r.worker_id, epoch = 1, lease_expires = r.expires, lease_seconds = 60 "
        "FROM reservation AS r WHERE r.flow_run_id = flow_run.id "
        "AND flow_run.state IN ('Submitted', 'Running', 'Cancelling')"
    )
    op.drop_table("reservation")
