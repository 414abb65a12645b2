"""Flow runs have limits of their own, and what is asked may be asked of a tag.

Revision ID: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

DOCUMENT = sa.Text().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Add the columns."""
    op.add_column("flow_run", sa.Column("limits", DOCUMENT))
    op.add_column("directive", sa.Column("tag", sa.Text()))
