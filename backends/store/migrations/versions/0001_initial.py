"""The first tables.

Revision ID: 0001
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
MOMENT = sa.String(32).with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
DOCUMENT = sa.Text().with_variant(postgresql.JSONB(), "postgresql")


def repeated(column: str) -> sa.Computed:
    """Return what makes a generated column repeat another; only PostgreSQL has to store it."""
    return sa.Computed(column, persisted=op.get_bind().dialect.name == "postgresql")


def references(table: str, column: str, target: str, on_delete: str = "CASCADE") -> sa.ForeignKeyConstraint:
    """Return the constraint that a column holds the id of a row of another table."""
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=f"fk_{table}_{column}", ondelete=on_delete)


def unique(table: str, *columns: str) -> sa.UniqueConstraint:
    """Return the constraint that no two rows have the same values in these columns."""
    return sa.UniqueConstraint(*columns, name=f"uq_{table}_{'_'.join(columns)}")


def where(condition: str) -> dict[str, Any]:
    """Return the options of an index that has the rows that meet a condition only."""
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "answer",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("outcomes", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_answer"),
        comment="what a batch was answered, under its idempotency key",
    )
    op.create_index("ix_answer_created", "answer", ["created"])
    op.create_table(
        "lease",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expires", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("service", name="pk_lease"),
        comment="which server process runs which service, and until when",
    )
    op.create_table(
        "tenant",
        sa.Column("id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("info", DOCUMENT, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("settings", DOCUMENT, nullable=False, server_default=sa.text("'{}'")),
        sa.PrimaryKeyConstraint("id", name="pk_tenant"),
        unique("tenant", "slug"),
    )
    op.create_table(
        "agent_config",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("settings", DOCUMENT, nullable=False, server_default=sa.text("'{}'")),
        sa.PrimaryKeyConstraint("id", name="pk_agent_config"),
        references("agent_config", "tenant_id", "tenant"),
    )
    op.create_table(
        "api_key",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("user_id", sa.Text()),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", DOCUMENT, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("expires_at", MOMENT),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
        references("api_key", "tenant_id", "tenant"),
        unique("api_key", "key_hash"),
    )
    op.create_index("ix_api_key_tenant_id", "api_key", ["tenant_id"])
    op.create_table(
        "cloud_hook",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("version_group_id", sa.Text()),
        sa.Column("name", sa.Text()),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("states", DOCUMENT, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("config", DOCUMENT, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("active", sa.Boolean(), nullable=False, server_default=sa.text("true")),
        sa.PrimaryKeyConstraint("id", name="pk_cloud_hook"),
        references("cloud_hook", "tenant_id", "tenant"),
    )
    op.create_index("ix_cloud_hook_tenant_id", "cloud_hook", ["tenant_id"])
    op.create_table(
        "flow_concurrency_limit",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("limit", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_flow_concurrency_limit"),
        references("flow_concurrency_limit", "tenant_id", "tenant"),
        unique("flow_concurrency_limit", "tenant_id", "name"),
    )
    op.create_table(
        "flow_group",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("settings", DOCUMENT, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("labels", DOCUMENT),
        sa.Column("schedule", DOCUMENT),
        sa.Column("default_parameters", DOCUMENT, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("run_config", DOCUMENT),
        sa.PrimaryKeyConstraint("id", name="pk_flow_group"),
        references("flow_group", "tenant_id", "tenant"),
        unique("flow_group", "tenant_id", "name"),
    )
    op.create_table(
        "key_value",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", DOCUMENT),
        sa.PrimaryKeyConstraint("id", name="pk_key_value"),
        references("key_value", "tenant_id", "tenant"),
        unique("key_value", "tenant_id", "key"),
    )
    op.create_table(
        "message",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("type", sa.Text()),
        sa.Column("text", sa.Text()),
        sa.Column("content", DOCUMENT, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("read", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.PrimaryKeyConstraint("id", name="pk_message"),
        references("message", "tenant_id", "tenant"),
    )
    op.create_index("ix_message_tenant_id", "message", ["tenant_id"])
    op.create_table(
        "project",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_project"),
        references("project", "tenant_id", "tenant"),
        unique("project", "tenant_id", "name"),
    )
    op.create_table(
        "secret",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("ciphertext", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_secret"),
        references("secret", "tenant_id", "tenant"),
        unique("secret", "tenant_id", "name"),
    )
    op.create_table(
        "task_tag_limit",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("limit", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_task_tag_limit"),
        references("task_tag_limit", "tenant_id", "tenant"),
        unique("task_tag_limit", "tenant_id", "tag"),
    )
    op.create_table(
        "agent",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("agent_config_id", ID),
        sa.Column("core_version", sa.Text()),
        sa.Column("name", sa.Text()),
        sa.Column("type", sa.Text()),
        sa.Column("labels", DOCUMENT, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("last_queried", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_agent"),
        references("agent", "agent_config_id", "agent_config", "SET NULL"),
        references("agent", "tenant_id", "tenant"),
    )
    op.create_index("ix_agent_tenant_id_name", "agent", ["tenant_id", "name"])
    op.create_table(
        "flow",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("project_id", ID),
        sa.Column("flow_group_id", ID, nullable=False),
        sa.Column("version_group_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("core_version", sa.Text()),
        sa.Column("description", sa.Text()),
        sa.Column("archived", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("is_schedule_active", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("serialized_flow", DOCUMENT, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("environment", DOCUMENT),
        sa.Column("run_config", DOCUMENT),
        sa.Column("storage", DOCUMENT),
        sa.Column("parameters", DOCUMENT, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("schedule", DOCUMENT),
        sa.Column("settings", DOCUMENT, nullable=False, server_default=sa.text("'{}'")),
        sa.PrimaryKeyConstraint("id", name="pk_flow"),
        references("flow", "flow_group_id", "flow_group"),
        references("flow", "project_id", "project"),
        references("flow", "tenant_id", "tenant"),
        unique("flow", "flow_group_id", "version"),
    )
    op.create_index("ix_flow_name", "flow", ["name"])
    op.create_index("ix_flow_project_id_name", "flow", ["project_id", "name"])
    op.create_table(
        "flow_run",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("flow_id", ID, nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("version", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("heartbeat", MOMENT),
        sa.Column("state", sa.Text()),
        sa.Column("state_message", sa.Text()),
        sa.Column("state_result", DOCUMENT),
        sa.Column("state_start_time", MOMENT),
        sa.Column("state_timestamp", MOMENT),
        sa.Column("serialized_state", sa.Text()),
        sa.Column("start_time", MOMENT),
        sa.Column("end_time", MOMENT),
        sa.Column("parameters", DOCUMENT, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("context", DOCUMENT, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("labels", DOCUMENT, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("run_config", DOCUMENT),
        sa.Column("scheduled_start_time", MOMENT),
        sa.Column("auto_scheduled", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("times_resurrected", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("agent_id", ID),
        sa.Column("submitted", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_flow_run"),
        references("flow_run", "agent_id", "agent", "SET NULL"),
        references("flow_run", "flow_id", "flow"),
        references("flow_run", "tenant_id", "tenant"),
        unique("flow_run", "flow_id", "idempotency_key"),
    )
    op.create_index("ix_flow_run_agent_id", "flow_run", ["agent_id"])
    op.create_index("ix_flow_run_created", "flow_run", ["created"])
    op.create_index("ix_flow_run_name", "flow_run", ["name"])
    op.create_index("ix_flow_run_state_heartbeat", "flow_run", ["state", "heartbeat"])
    op.create_index("ix_flow_run_state_state_timestamp", "flow_run", ["state", "state_timestamp"])
    op.create_table(
        "task",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("flow_id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("type", sa.Text()),
        sa.Column("max_retries", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("retry_delay", sa.Text()),
        sa.Column("trigger", sa.Text()),
        sa.Column("tags", DOCUMENT, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("mapped", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("auto_generated", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("cache_key", sa.Text()),
        sa.Column("is_reference_task", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("is_root_task", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("is_terminal_task", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.PrimaryKeyConstraint("id", name="pk_task"),
        references("task", "flow_id", "flow"),
        references("task", "tenant_id", "tenant"),
        unique("task", "flow_id", "slug"),
    )
    op.create_table(
        "edge",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("flow_id", ID, nullable=False),
        sa.Column("upstream_task_id", ID, nullable=False),
        sa.Column("downstream_task_id", ID, nullable=False),
        sa.Column("key", sa.Text()),
        sa.Column("mapped", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.PrimaryKeyConstraint("id", name="pk_edge"),
        references("edge", "downstream_task_id", "task"),
        references("edge", "flow_id", "flow"),
        references("edge", "tenant_id", "tenant"),
        references("edge", "upstream_task_id", "task"),
        unique("edge", "flow_id", "downstream_task_id", "upstream_task_id"),
    )
    op.create_index("ix_edge_downstream_task_id", "edge", ["downstream_task_id"])
    op.create_index("ix_edge_upstream_task_id", "edge", ["upstream_task_id"])
    op.create_table(
        "flow_run_state",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID),
        sa.Column("flow_run_id", ID, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("timestamp", MOMENT, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("message", sa.Text()),
        sa.Column("result", DOCUMENT),
        sa.Column("start_time", MOMENT),
        sa.Column("serialized_state", sa.Text()),
        sa.Column("client_id", sa.Text()),
        sa.Column("created", MOMENT, repeated("timestamp")),
        sa.Column("updated", MOMENT, repeated("timestamp")),
        sa.PrimaryKeyConstraint("id", name="pk_flow_run_state"),
        references("flow_run_state", "flow_run_id", "flow_run"),
        unique("flow_run_state", "flow_run_id", "version"),
    )
    op.create_table(
        "flow_slot",
        sa.Column("limit_id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        references("flow_slot", "limit_id", "flow_concurrency_limit"),
        references("flow_slot", "run_id", "flow_run"),
        unique("flow_slot", "limit_id", "run_id"),
        comment="which running flow run holds a place under which label's limit",
    )
    op.create_index("ix_flow_slot_run_id", "flow_slot", ["run_id"])
    op.create_table(
        "reservation",
        sa.Column("flow_run_id", ID, nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("expires", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("flow_run_id", name="pk_reservation"),
        references("reservation", "flow_run_id", "flow_run"),
        comment="which worker has taken which flow run out of the queue, and until when",
    )
    op.create_table(
        "task_run",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("flow_run_id", ID, nullable=False),
        sa.Column("task_id", ID, nullable=False),
        sa.Column("map_index", sa.Integer(), nullable=False, server_default=sa.text("-1")),
        sa.Column("name", sa.Text()),
        sa.Column("version", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("heartbeat", MOMENT),
        sa.Column("state", sa.Text()),
        sa.Column("state_message", sa.Text()),
        sa.Column("state_result", DOCUMENT),
        sa.Column("state_start_time", MOMENT),
        sa.Column("state_timestamp", MOMENT),
        sa.Column("serialized_state", sa.Text()),
        sa.Column("start_time", MOMENT),
        sa.Column("end_time", MOMENT),
        sa.Column("cache_key", sa.Text()),
        sa.Column("cached_inputs", sa.Text()),
        sa.Column("cached_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_task_run"),
        references("task_run", "flow_run_id", "flow_run"),
        references("task_run", "task_id", "task"),
        references("task_run", "tenant_id", "tenant"),
        unique("task_run", "flow_run_id", "task_id", "map_index"),
    )
    op.create_index("ix_task_run_cache_key", "task_run", ["cache_key", "cached_at"], **where("cached_at IS NOT NULL"))
    op.create_index("ix_task_run_cached", "task_run", ["task_id", "cached_at"], **where("cached_at IS NOT NULL"))
    op.create_index("ix_task_run_task_id", "task_run", ["task_id"])
    op.create_index(
        "ix_task_run_waiting", "task_run", ["flow_run_id", "state_start_time"], **where("state_start_time IS NOT NULL")
    )
    op.create_table(
        "log",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("flow_run_id", ID),
        sa.Column("task_run_id", ID),
        sa.Column("timestamp", MOMENT, nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("level", sa.Text(), nullable=False, server_default=sa.text("'INFO'")),
        sa.Column("message", sa.Text()),
        sa.Column("info", DOCUMENT),
        sa.PrimaryKeyConstraint("id", name="pk_log"),
        references("log", "flow_run_id", "flow_run"),
        references("log", "task_run_id", "task_run"),
        references("log", "tenant_id", "tenant"),
    )
    op.create_index("ix_log_flow_run_id_timestamp", "log", ["flow_run_id", "timestamp"])
    op.create_index("ix_log_task_run_id_timestamp", "log", ["task_run_id", "timestamp"])
    op.create_table(
        "task_run_artifact",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("task_run_id", ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", DOCUMENT),
        sa.PrimaryKeyConstraint("id", name="pk_task_run_artifact"),
        references("task_run_artifact", "task_run_id", "task_run"),
        references("task_run_artifact", "tenant_id", "tenant"),
    )
    op.create_index("ix_task_run_artifact_task_run_id", "task_run_artifact", ["task_run_id"])
    op.create_table(
        "task_run_state",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID),
        sa.Column("task_run_id", ID, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("timestamp", MOMENT, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("message", sa.Text()),
        sa.Column("result", DOCUMENT),
        sa.Column("start_time", MOMENT),
        sa.Column("serialized_state", sa.Text()),
        sa.Column("client_id", sa.Text()),
        sa.Column("created", MOMENT, repeated("timestamp")),
        sa.Column("updated", MOMENT, repeated("timestamp")),
        sa.PrimaryKeyConstraint("id", name="pk_task_run_state"),
        references("task_run_state", "task_run_id", "task_run"),
        unique("task_run_state", "task_run_id", "version"),
    )
    op.create_table(
        "task_slot",
        sa.Column("limit_id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        references("task_slot", "limit_id", "task_tag_limit"),
        references("task_slot", "run_id", "task_run"),
        unique("task_slot", "limit_id", "run_id"),
        comment="which running task run holds a place under which tag's limit",
    )
    op.create_index("ix_task_slot_run_id", "task_slot", ["run_id"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE task_run SET (fillfactor = 60)")
