"""Flow runs that are a part of another one know which.

Revision ID: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")


def upgrade() -> None:
    """Add the column and its index."""
    op.add_column("flow_run", sa.Column("root_flow_run_id", ID))
    only = sa.text("root_flow_run_id IS NOT NULL")
    op.create_index(
        "ix_flow_run_root_flow_run_id", "flow_run", ["root_flow_run_id"], sqlite_where=only, postgresql_where=only
    )
