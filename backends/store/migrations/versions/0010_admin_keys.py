"""API keys that could do everything go on to: what is for administrators has a scope of its own.

Revision ID: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Give the scope admin to every key with the scope write."""
    key = sa.table("api_key", sa.column("id", ID), sa.column("scopes", JSON))
    connection = op.get_bind()
    for key_id, scopes in connection.execute(sa.select(key.c.id, key.c.scopes)).all():
        if "write" in scopes:
            connection.execute(sa.update(key).where(key.c.id == key_id).values(scopes=[*scopes, "admin"]))
