"""Run by Alembic: applies the migrations over the connection that `upgrade` hands it."""

from __future__ import annotations

from alembic import context

from flowloop.backends.store.databases.base import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
