"""The tables, for SQLite and PostgreSQL alike.

Column names are those that the API shows. What the store keeps for itself alone is marked: a column with
``info={"internal": True}`` and a table that is not in `PUBLIC` never appear in an answer.

`RELATIONS` says how the tables hang together; the server generates its nested reads and its relation
predicates from it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy.dialects import postgresql

from .column_types import Copy, JsonText, StateText, UtcDateTime

__all__ = ["PUBLIC", "RELATIONS", "Relation", "StateText", "UtcDateTime", "metadata"]


class Relation(NamedTuple):
    """How the rows of one table lead to rows of another.

    Args:
        - name: the field that shows it
        - table: the name of the other table
        - local: the column on this side
        - remote: the column on the other side
        - many: whether it leads to a list (with a ``<name>_aggregate`` beside it) or to one row
    """

    name: str
    table: str
    local: str
    remote: str
    many: bool


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_Id = String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
_Json = JsonText(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_internal = {"internal": True}


def _json(name: str, *, empty: str | None = None) -> Column[Any]:
    """A JSON document; `empty` is the text of its default."""
    if empty is None:
        return Column(name, _Json)
    return Column(name, _Json, nullable=False, server_default=text(f"'{empty}'"))


def _flag(name: str, default: bool = False) -> Column[Any]:
    return Column(name, Boolean, nullable=False, server_default=text("true" if default else "false"))


def _reference(name: str, table: str, *, nullable: bool = False, keep: bool = False, **options: Any) -> Column[Any]:
    """A reference to a row of another table, whose deletion deletes this row too, or with `keep` empties the column."""
    action = "SET NULL" if keep else "CASCADE"
    return Column(name, _Id, ForeignKey(f"{table}.id", ondelete=action), nullable=nullable or keep, **options)


def _table(name: str, *columns: Any, tenant: bool = True) -> Table:
    """A table with the columns that every row has."""
    owner = [_reference("tenant_id", "tenant")] if tenant else []
    return Table(
        name,
        metadata,
        Column("id", _Id, primary_key=True),
        *owner,
        Column("created", UtcDateTime, nullable=False),
        Column("updated", UtcDateTime, nullable=False),
        *columns,
    )


_table(
    "tenant",
    Column("name", Text, nullable=False),
    Column("slug", Text, nullable=False, unique=True),
    _json("info", empty="{}"),
    _json("settings", empty="{}"),
    tenant=False,
)
_table(
    "project",
    Column("name", Text, nullable=False),
    Column("description", Text),
    UniqueConstraint("tenant_id", "name"),
)
_table(
    "flow_group",
    Column("name", Text, nullable=False),
    Column("description", Text),
    _json("settings", empty="{}"),
    _json("labels"),
    _json("schedule"),
    _json("default_parameters", empty="{}"),
    _json("run_config"),
    UniqueConstraint("tenant_id", "name"),
)
_table(
    "flow",
    _reference("project_id", "project", nullable=True),
    _reference("flow_group_id", "flow_group"),
    Column("version_group_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("core_version", Text),
    Column("description", Text),
    _flag("archived"),
    _flag("is_schedule_active"),
    _json("serialized_flow", empty="{}"),
    _json("environment"),
    _json("run_config"),
    _json("storage"),
    _json("parameters", empty="[]"),
    _json("schedule"),
    _json("settings", empty="{}"),
    UniqueConstraint("flow_group_id", "version"),
    Index(None, "project_id", "name"),
    Index(None, "name"),
)
_table(
    "task",
    _reference("flow_id", "flow"),
    Column("name", Text, nullable=False),
    Column("slug", Text, nullable=False),
    Column("description", Text),
    Column("type", Text),
    Column("max_retries", Integer, nullable=False, server_default=text("0")),
    Column("retry_delay", Text),
    Column("trigger", Text),
    _json("tags", empty="[]"),
    _flag("mapped"),
    _flag("auto_generated"),
    Column("cache_key", Text),
    _flag("is_reference_task"),
    _flag("is_root_task"),
    _flag("is_terminal_task"),
    UniqueConstraint("flow_id", "slug"),
)
_table(
    "edge",
    _reference("flow_id", "flow"),
    _reference("upstream_task_id", "task"),
    _reference("downstream_task_id", "task"),
    Column("key", Text),
    _flag("mapped"),
    UniqueConstraint("flow_id", "downstream_task_id", "upstream_task_id"),
    Index(None, "upstream_task_id"),
    Index(None, "downstream_task_id"),
)
_table(
    "agent_config",
    Column("name", Text),
    _json("settings", empty="{}"),
)
_table(
    "agent",
    _reference("agent_config_id", "agent_config", keep=True),
    Column("core_version", Text),
    Column("name", Text),
    Column("type", Text),
    _json("labels", empty="[]"),
    Column("last_queried", UtcDateTime),
    Index(None, "tenant_id", "name"),
)


def _only(condition: str) -> dict[str, Any]:
    """The options of an index that has the rows that meet a condition only."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


def _run_columns() -> list[Any]:
    """Columns of a run: its newest state, copied from its newest state row in the same transaction."""
    return [
        Column("name", Text),
        Column("version", Integer, nullable=False, server_default=text("0")),
        Column("heartbeat", UtcDateTime),
        Column("state", Text),
        Column("state_message", Text),
        _json("state_result"),
        Column("state_start_time", UtcDateTime),
        Column("state_timestamp", UtcDateTime),
        Column("serialized_state", StateText),
        Column("start_time", UtcDateTime),
        Column("end_time", UtcDateTime),
    ]


def _state_columns() -> list[Any]:
    """Columns of a state row. A state is written once, so `created` and `updated` are its `timestamp`."""
    return [
        Column("version", Integer, nullable=False),
        Column("timestamp", UtcDateTime, nullable=False),
        Column("state", Text, nullable=False),
        Column("message", Text),
        _json("result"),
        Column("start_time", UtcDateTime),
        Column("serialized_state", StateText),
        # Who claimed the run by this state: the same claim from the same client is a repeated message, from another
        # client it is a rival.
        Column("client_id", Text, info=_internal),
        Column("created", UtcDateTime, Copy("timestamp")),
        Column("updated", UtcDateTime, Copy("timestamp")),
    ]


_table(
    "flow_run",
    _reference("flow_id", "flow"),
    *_run_columns(),
    _json("parameters", empty="{}"),
    _json("context", empty="{}"),
    _json("labels", empty="[]"),
    _json("run_config"),
    Column("scheduled_start_time", UtcDateTime),
    _flag("auto_scheduled"),
    Column("times_resurrected", Integer, nullable=False, server_default=text("0")),
    Column("idempotency_key", Text),
    _reference("agent_id", "agent", keep=True),
    # The task run that created this run, if one did; it may be gone since. Task runs refer to flow runs already.
    Column("parent_task_run_id", _Id),
    # The flow run that this one is a part of in the end, with which it is claimed and ended.
    Column("root_flow_run_id", _Id, info=_internal),
    # When the run was last submitted: nobody else may submit it for a while.
    Column("submitted", UtcDateTime, info=_internal),
    # Who runs it, until when unless more is heard, and how often it has been claimed: a write that comes with an epoch
    # comes from the owner of that claim.
    Column("owner", Text),
    Column("epoch", Integer, nullable=False, server_default=text("0")),
    Column("lease_expires", UtcDateTime),
    Column("lease_seconds", Float, info=_internal),
    # The limits that were set while it goes on, which hold beside those of its runner.
    _json("limits"),
    # Of what is ready, what has the higher priority goes first; of one priority, the keys take turns.
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("fairness_key", Text),
    UniqueConstraint("flow_id", "idempotency_key"),
    Index(None, "created"),
    Index(None, "name"),
    Index(None, "flow_id", "created"),
    Index(None, "state", "created"),
    Index(None, "state", "state_timestamp"),
    Index(None, "state", "heartbeat"),
    Index(None, "agent_id"),
    Index("ix_flow_run_keyed", "state", **_only("fairness_key IS NOT NULL")),
    Index("ix_flow_run_due", "scheduled_start_time", **_only("state = 'Scheduled'")),
    Index("ix_flow_run_parent_task_run_id", "parent_task_run_id", **_only("parent_task_run_id IS NOT NULL")),
    Index("ix_flow_run_root_flow_run_id", "root_flow_run_id", **_only("root_flow_run_id IS NOT NULL")),
    Index("ix_flow_run_owner", "owner", **_only("owner IS NOT NULL")),
)

# No index holds a column that an ordinary transition changes: PostgreSQL then updates rows in place, at half the cost.
# Even the condition of an index counts, so the newest state alone cannot be one.
_waiting = _only("state_start_time IS NOT NULL")
_cached = _only("cached_at IS NOT NULL")
_attention = _only("attention IS NOT NULL")

_table(
    "task_run",
    _reference("flow_run_id", "flow_run"),
    _reference("task_id", "task"),
    Column("map_index", Integer, nullable=False, server_default=text("-1")),
    *_run_columns(),
    Column("cache_key", Text),
    # The cached inputs of the newest state that had some: a state without any takes them over.
    Column("cached_inputs", Text, info=_internal),
    # The timestamp of the newest state if it is Cached, else NULL.
    Column("cached_at", UtcDateTime, info=_internal),
    # The newest state and its timestamp if it is one of `lifecycle.ATTENTION`, else NULL.
    Column("attention", Text, info=_internal),
    Column("attention_at", UtcDateTime, info=_internal),
    UniqueConstraint("flow_run_id", "task_id", "map_index"),
    Index(None, "task_id"),
    Index("ix_task_run_waiting", "flow_run_id", "state_start_time", **_waiting),
    Index("ix_task_run_cached", "task_id", "cached_at", **_cached),
    Index("ix_task_run_cache_key", "cache_key", "cached_at", **_cached),
    Index("ix_task_run_attention", "attention", "attention_at", **_attention),
    Index("ix_task_run_attention_of_run", "flow_run_id", "attention_at", **_attention),
)


@event.listens_for(metadata.tables["task_run"], "after_create")
def _leave_room(_: Table, connection: Connection, **__: Any) -> None:
    """Leave room in every page for the versions of a row that updates leave behind."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("ALTER TABLE task_run SET (fillfactor = 60)"))


for _kind in ("flow_run", "task_run"):
    Table(
        f"{_kind}_state",
        metadata,
        Column("id", _Id, primary_key=True),
        Column("tenant_id", _Id),
        _reference(f"{_kind}_id", _kind),
        *_state_columns(),
        UniqueConstraint(f"{_kind}_id", "version"),
    )

_table(
    "task_run_artifact",
    _reference("task_run_id", "task_run"),
    _reference("flow_run_id", "flow_run", nullable=True),
    Column("kind", Text, nullable=False),
    _json("data"),
    Index(None, "task_run_id"),
    Index(None, "flow_run_id", "created"),
)
_table(
    "directive",
    _reference("flow_run_id", "flow_run"),
    Column("kind", Text, nullable=False),
    Column("author", Text),
    Column("task", Text),
    Column("map_index", Integer, nullable=False, server_default=text("-1")),
    _json("value"),
    Column("note", Text),
    Column("tag", Text),
    Column("obeyed", UtcDateTime),
    Column("epoch", Integer),
    Index(None, "flow_run_id", "created"),
)
_table(
    "log",
    _reference("flow_run_id", "flow_run", nullable=True),
    _reference("task_run_id", "task_run", nullable=True),
    Column("timestamp", UtcDateTime, nullable=False),
    Column("name", Text),
    Column("level", Text, nullable=False, server_default=text("'INFO'")),
    Column("message", Text),
    _json("info"),
    Index(None, "flow_run_id", "timestamp"),
    Index(None, "task_run_id", "timestamp"),
)
_table(
    "message",
    Column("type", Text),
    Column("text", Text),
    _json("content", empty="{}"),
    _flag("read"),
    Index(None, "tenant_id"),
)
_table(
    "cloud_hook",
    Column("version_group_id", Text),
    Column("name", Text),
    Column("type", Text, nullable=False),
    _json("states", empty="[]"),
    # Who knows the URL that a message is posted to can post there, too.
    Column("config", _Json, nullable=False, server_default=text("'{}'"), info=_internal),
    _flag("active", default=True),
    # Until when it was looked for what it tells of.
    Column("seen", UtcDateTime, info=_internal),
    Index(None, "tenant_id"),
)
_table(
    "notification",
    _reference("cloud_hook_id", "cloud_hook"),
    _reference("flow_run_id", "flow_run"),
    Column("event", Text, nullable=False),
    # Tells this event from every other of the same flow run.
    Column("key", Text, nullable=False),
    Column("message", Text),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("next_attempt", UtcDateTime),
    Column("sent", UtcDateTime),
    Column("error", Text),
    UniqueConstraint("cloud_hook_id", "flow_run_id", "key"),
    Index(None, "flow_run_id"),
    Index("ix_notification_due", "next_attempt", **_only("next_attempt IS NOT NULL")),
)

# -- what only the hosted API had ----------------------------------------------------------------------

_table("key_value", Column("key", Text, nullable=False), _json("value"), UniqueConstraint("tenant_id", "key"))
_table(
    "task_tag_limit",
    Column("tag", Text, nullable=False),
    Column("limit", Integer, nullable=False),
    UniqueConstraint("tenant_id", "tag"),
)
_table(
    "task_rate_limit",
    Column("tag", Text, nullable=False),
    Column("limit", Integer, nullable=False),
    Column("period", Float, nullable=False),
    # When the last ones began, as many as count: seconds of the clock that leases are compared with.
    Column("begun", _Json, nullable=False, server_default=text("'[]'"), info=_internal),
    UniqueConstraint("tenant_id", "tag"),
)
_table(
    "flow_concurrency_limit",
    Column("name", Text, nullable=False),
    Column("limit", Integer, nullable=False),
    UniqueConstraint("tenant_id", "name"),
)
_table(
    "api_key",
    Column("user_id", Text),
    Column("name", Text, nullable=False),
    _json("scopes", empty="[]"),
    Column("expires_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    Column("key_hash", Text, nullable=False, unique=True, info=_internal),
    # The key that this one was made of, as a session of a browser or as a token, and goes with.
    _reference("parent_id", "api_key", nullable=True, info=_internal),
    Index(None, "tenant_id"),
    Index(None, "parent_id"),
)
_table(
    "secret",
    Column("name", Text, nullable=False),
    Column("ciphertext", Text, nullable=False, info=_internal),
    UniqueConstraint("tenant_id", "name"),
)

# -- the store's own books -----------------------------------------------------------------------------

Table(
    "answer",
    metadata,
    Column("key", Text, primary_key=True),
    Column("created", UtcDateTime, nullable=False, index=True),
    Column("outcomes", Text, nullable=False),
    comment="what a batch was answered, under its idempotency key",
)
Table(
    "task_slot",
    metadata,
    _reference("limit_id", "task_tag_limit"),
    _reference("run_id", "task_run"),
    UniqueConstraint("limit_id", "run_id"),
    Index(None, "run_id"),
    comment="which running task run holds a place under which tag's limit",
)
Table(
    "task_line",
    metadata,
    # Of either kind of limit on tags; a row whose limit is gone stays until its run has its turn.
    Column("limit_id", _Id, nullable=False),
    _reference("run_id", "task_run"),
    # The priority, with its sign turned round, so that an index in one direction holds the line in its order.
    Column("rank", Integer, nullable=False),
    Column("since", Float, nullable=False),
    Column("due", Float, nullable=False),
    UniqueConstraint("run_id", "limit_id"),
    Index(None, "limit_id", "rank", "since", "run_id"),
    comment="which task run waits for its turn under which limit, and when it asks again",
)
Table(
    "flow_slot",
    metadata,
    _reference("limit_id", "flow_concurrency_limit"),
    _reference("run_id", "flow_run"),
    UniqueConstraint("limit_id", "run_id"),
    Index(None, "run_id"),
    comment="which running flow run holds a place under which label's limit",
)
_table(
    "worker",
    Column("name", Text, nullable=False),
    _json("labels", empty="[]"),
    _json("flow_names"),
    # Flows of these names that it cannot run, because it has another version of them.
    _json("not_flow_ids"),
    # How many flow runs it would have taken when it asked last.
    Column("room", Integer, nullable=False, server_default=text("0")),
    UniqueConstraint("tenant_id", "name"),
)
Table(
    "lease",
    metadata,
    Column("service", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("expires", UtcDateTime, nullable=False),
    comment="which server process runs which service, and until when",
)


def _one(name: str, table: str, local: str) -> Relation:
    return Relation(name, table, local, "id", many=False)


def _many(name: str, table: str, remote: str) -> Relation:
    return Relation(name, table, "id", remote, many=True)


_tenant = _one("tenant", "tenant", "tenant_id")

RELATIONS: dict[str, tuple[Relation, ...]] = {
    "tenant": (
        _many("projects", "project", "tenant_id"),
        _many("flows", "flow", "tenant_id"),
        _many("flow_groups", "flow_group", "tenant_id"),
    ),
    "project": (_tenant, _many("flows", "flow", "project_id")),
    "flow_group": (_tenant, _many("flows", "flow", "flow_group_id")),
    "flow": (
        _tenant,
        _one("project", "project", "project_id"),
        _one("flow_group", "flow_group", "flow_group_id"),
        _many("tasks", "task", "flow_id"),
        _many("edges", "edge", "flow_id"),
        _many("flow_runs", "flow_run", "flow_id"),
    ),
    "task": (
        _one("flow", "flow", "flow_id"),
        _many("task_runs", "task_run", "task_id"),
        _many("upstream_edges", "edge", "downstream_task_id"),
        _many("downstream_edges", "edge", "upstream_task_id"),
    ),
    "edge": (
        _one("flow", "flow", "flow_id"),
        _one("upstream_task", "task", "upstream_task_id"),
        _one("downstream_task", "task", "downstream_task_id"),
    ),
    "flow_run": (
        _tenant,
        _one("flow", "flow", "flow_id"),
        _one("agent", "agent", "agent_id"),
        _many("states", "flow_run_state", "flow_run_id"),
        _many("task_runs", "task_run", "flow_run_id"),
        _many("logs", "log", "flow_run_id"),
        _many("artifacts", "task_run_artifact", "flow_run_id"),
        _many("directives", "directive", "flow_run_id"),
        _one("parent_task_run", "task_run", "parent_task_run_id"),
    ),
    "task_run": (
        _tenant,
        _one("flow_run", "flow_run", "flow_run_id"),
        _one("task", "task", "task_id"),
        _many("states", "task_run_state", "task_run_id"),
        _many("logs", "log", "task_run_id"),
        _many("artifacts", "task_run_artifact", "task_run_id"),
        _many("children", "flow_run", "parent_task_run_id"),
    ),
    "flow_run_state": (_one("flow_run", "flow_run", "flow_run_id"),),
    "task_run_state": (_one("task_run", "task_run", "task_run_id"),),
    "agent": (_one("agent_config", "agent_config", "agent_config_id"), _many("flow_runs", "flow_run", "agent_id")),
    "agent_config": (_many("agents", "agent", "agent_config_id"),),
    "task_run_artifact": (
        _one("task_run", "task_run", "task_run_id"),
        _one("flow_run", "flow_run", "flow_run_id"),
    ),
    "directive": (_one("flow_run", "flow_run", "flow_run_id"),),
    "log": (),
    "message": (),
    "cloud_hook": (),
    "key_value": (),
    "task_tag_limit": (),
    "task_rate_limit": (),
    "flow_concurrency_limit": (),
    "api_key": (),
}
"""The relations of every public table, by its name."""

PUBLIC: tuple[str, ...] = tuple(RELATIONS)
"""The tables that reads may show. Every one has a `tenant_id`, except `tenant`, whose `id` it is."""
