"""Flow runs have a priority, and a key that shares are given by.

Revision ID: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("flow_run", sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("flow_run", sa.Column("fairness_key", sa.Text()))
    keyed = sa.text("fairness_key IS NOT NULL")
    op.create_index("ix_flow_run_keyed", "flow_run", ["state"], sqlite_where=keyed, postgresql_where=keyed)
