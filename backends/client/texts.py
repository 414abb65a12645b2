"""What the client asks and says: the GraphQL documents, and the records that the answers become.

The documents are of the Prefect 1 dialect, and those for any server use nothing but it. Reads name their variables'
types as the tables do (``uuid``, ``timestamptz``), mutations take one ``input``.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from ...engine.backend import (
    ArtifactRecord,
    FlowRunFilter,
    FlowRunInfoResult,
    FlowRunSummary,
    FlowSummary,
    LogRecord,
    ProjectInfo,
    StateRecord,
    TaskRunHistory,
    TaskRunInfoResult,
)
from ...engine.directives import Directive
from ...engine.errors import DialectError
from ...engine.result import Result
from ...engine.serialization import decode_state
from ...engine.serialization.text import storable
from ...engine.state import Pending, State

# ---- reads -------------------------------------------------------------------------------------------

WHO = "query { api { flowloop } }"
HELLO = "query { hello }"

_TASK_RUN = "id version map_index serialized_state task { id slug }"

_FLOW_RUN_INFOS = """
query ($ids: [uuid!]!, $limit: Int!) {{
  flow_run(where: {{id: {{_in: $ids}}}}) {{
    id name flow_id version serialized_state parameters context scheduled_start_time start_time heartbeat{more}
    flow {{ project {{ id name }} }}
    task_runs(where: {{map_index: {{_eq: -1}}}}, order_by: {{id: asc}}, limit: $limit) {{ {task_run} }}
  }}
}}"""
FLOW_RUN_INFOS = _FLOW_RUN_INFOS.format(task_run=_TASK_RUN, more="")
OWNED_FLOW_RUN_INFOS = _FLOW_RUN_INFOS.format(task_run=_TASK_RUN, more=" owner epoch limits")

MORE_TASK_RUNS = f"""
query ($id: uuid!, $after: uuid!, $limit: Int!) {{
  task_run(
    where: {{flow_run_id: {{_eq: $id}}, map_index: {{_eq: -1}}, id: {{_gt: $after}}}}
    order_by: {{id: asc}}
    limit: $limit
  ) {{ {_TASK_RUN} }}
}}"""

FLOW_RUN_STATES = "query ($ids: [uuid!]!) { flow_run(where: {id: {_in: $ids}}) { id serialized_state } }"

TASK_RUN_STATE = "query ($id: UUID!) { get_task_run_info(task_run_id: $id) { serialized_state } }"

_CACHED = """
query (${name}: {kind}!, $after: timestamptz!) {{
  task_run(
    where: {{state: {{_eq: "Cached"}}, state_timestamp: {{_gte: $after}}, {name}: {{_eq: ${name}}}}}
    order_by: {{state_timestamp: desc}}
    limit: 100
  ) {{ serialized_state }}
}}"""
CACHED_OF_TASK = _CACHED.format(name="task_id", kind="uuid")
CACHED_OF_KEY = _CACHED.format(name="cache_key", kind="String")

_SUMMARY = "id name state state_message created start_time end_time scheduled_start_time flow { name }"

FLOW_RUNS = f"""
query ($limit: Int!, $where: flow_run_bool_exp) {{
  flow_run(where: $where, order_by: {{created: desc}}, limit: $limit) {{ {_SUMMARY} }}
}}"""

FLOWS = """
query ($skip: Int!, $limit: Int!) {
  flow(where: {archived: {_eq: false}}, order_by: [{name: asc}, {version: desc}], offset: $skip, limit: $limit) {
    id name version flow_group_id is_schedule_active schedule parameters
    project { name }
    flow_group { schedule }
    flow_runs(
      where: {state: {_eq: "Scheduled"}, auto_scheduled: {_eq: true}}, order_by: {scheduled_start_time: asc}, limit: 1
    ) { scheduled_start_time }
  }
}"""

NEXT_READY = "query { next_ready }"

SECRETS = "query { secret_names }"

SECRET = "query ($name: String!) { secret_value(name: $name) }"  # noqa: S105 - the query for one

LIMITS = """
query {
  task_tag_limit(order_by: {tag: asc}) { id tag limit }
  flow_concurrency_limit(order_by: {name: asc}) { id name limit }
}"""

RATES = "query { task_rate_limit(order_by: {tag: asc}) { id tag limit period } }"

_DIRECTIVE = "id flow_run_id kind author created task map_index value note tag obeyed epoch"

DIRECTIVES = f"""
query ($id: uuid!) {{
  directive(where: {{flow_run_id: {{_eq: $id}}}}, order_by: [{{created: asc}}, {{id: asc}}]) {{ {_DIRECTIVE} }}
}}"""

LOGS = """
query ($id: uuid!, $skip: Int!, $limit: Int!) {
  log(where: {flow_run_id: {_eq: $id}}, order_by: [{created: asc}, {id: asc}], offset: $skip, limit: $limit) {
    flow_run_id task_run_id timestamp name level message
  }
}"""

NOTIFICATIONS = "query { notifications { name kind target events flow after } }"

ARTIFACTS = """
query ($id: uuid!, $after: uuid!, $limit: Int!) {
  task_run_artifact(where: {flow_run_id: {_eq: $id}, id: {_gt: $after}}, order_by: {id: asc}, limit: $limit) {
    id task_run_id kind data created
  }
}"""


@lru_cache
def with_parents(text: str) -> str:
    """Return a query of flow runs that also asks which of them are a task run of another one."""
    return text.replace(_SUMMARY, f"{_SUMMARY} parent_task_run_id")


LIMIT_KINDS = {
    "tag": ("task_tag_limit", "tag", LIMITS),
    "rate": ("task_rate_limit", "tag", RATES),
    "label": ("flow_concurrency_limit", "name", LIMITS),
}
"""Of each kind of limit its table, the column that says what it is for, and the query that it is in."""

FAILURES = """
query ($id: uuid!, $states: [String!], $after: uuid!, $limit: Int!) {
  task_run_state(
    where: {task_run: {flow_run_id: {_eq: $id}}, state: {_in: $states}, id: {_gt: $after}}
    order_by: {id: asc}, limit: $limit
  ) { id task_run_id version serialized_state }
}"""

FLOW_RUNS_BY_ID = f"""
query ($first: uuid!, $last: uuid!) {{
  flow_run(where: {{id: {{_gte: $first, _lte: $last}}}}, limit: 2) {{ {_SUMMARY} }}
}}"""

FLOW_RUNS_BY_NAME = f"""
query ($name: String!) {{
  flow_run(where: {{name: {{_eq: $name}}}}, order_by: {{created: desc}}, limit: 1) {{ {_SUMMARY} }}
}}"""

TASK_RUN_HISTORIES = """
query ($id: uuid!, $after: uuid!, $limit: Int!) {
  task_run(where: {flow_run_id: {_eq: $id}, id: {_gt: $after}}, order_by: {id: asc}, limit: $limit) {
    id name map_index start_time end_time
    task { slug }
    states(order_by: {version: asc}) { version timestamp state message }
  }
}"""

TENANTS = "query { tenant { id } }"

PROJECT = "query ($name: String!) { project(where: {name: {_eq: $name}}) { id } }"

NEWEST_FLOW = """
query ($name: String!, $project: uuid!) {
  flow(where: {_and: {name: {_eq: $name}, project: {id: {_eq: $project}}}}, order_by: {version: desc}, limit: 1) {
    id version archived version_group_id flow_group { settings }
  }
}"""

FLOW_VERSION = "query ($id: uuid!) { flow_by_pk(id: $id) { id version } }"

WATCH_FLOW_RUN = "subscription ($id: UUID!) { flow_run_states(flow_run_id: $id) { serialized_state } }"

WATCH_FLOW_RUNS = "subscription { flow_run_states { id state serialized_state } }"

# ---- mutations ---------------------------------------------------------------------------------------

_ANSWERS = {
    "cancel_flow_run": "state",
    "delete_flow_concurrency_limit": "success",
    "delete_flow_run": "success",
    "delete_notification": "success",
    "delete_task_rate_limit": "success",
    "delete_task_tag_limit": "success",
    "direct_flow_run": _DIRECTIVE,
    "obey_directive": "success",
    "restart_flow_run": "task_runs",
    "set_notification": "id",
    "set_schedule_active": "success",
    "set_schedule_inactive": "success",
    "set_secret": "success",
    "update_flow_concurrency_limit": "id",
    "update_task_rate_limit": "id",
    "update_task_tag_limit": "id",
    "create_flow_from_compressed_string": "id",
    "create_flow_run": "id",
    "create_project": "id",
    "create_task_run_artifact": "id",
    "create_tenant": "id",
    "get_or_create_task_run_info": "id version serialized_state",
    "get_or_create_task_runs": "task_runs { id version map_index serialized_state }",
    "claim_flow_run": "claimed owner epoch last_heard free_at",
    "release_flow_run": "success",
    "set_flow_run_states": "states { id status message }",
    "set_task_run_name": "success",
    "set_task_run_states": "states { id status message }",
    "update_flow_run_heartbeat": "success",
    "update_task_run_artifact": "success",
    "write_run_logs": "success",
}
_STARTED = (
    "status message id name flow_id version serialized_state parameters context scheduled_start_time heartbeat "
    "owner epoch start_time limits project { id name } task_runs { id task_id task_slug version serialized_state }"
)
_ANSWERS["start_subflow_run"] = _STARTED
_ANSWERS["reserve_flow_runs"] = (
    f"flow_runs {{ flow_run_id flow_id flow_name lapsed alone epoch flow_run {{ {_STARTED} }} }}"
)
_ITEM_BY_ITEM = {
    "start_flow_runs": f"flow_runs {{ {_STARTED} }}",
    "set_flow_run_states": "states { status message code serialized_state }",
    "set_task_run_states": "states { status message code serialized_state }",
}


def mutation(field: str) -> str:
    """Return the document of one mutation, with its variable ``input``."""
    return f"mutation ($input: {field}_input!) {{ {field}(input: $input) {{ {_ANSWERS[field]} }} }}"


# Thousands of these wait at a time: the garbage collector, which would find nothing in them, is spared the search.
class Write(msgspec.Struct, frozen=True, gc=False):
    """Something for the outbox: one mutation, or one part of a mutation that takes a list.

    Args:
        - field: the mutation
        - content: its input; of a mutation that takes a list, what this write adds to the list
        - result: what a state names, and has to be on the disk before it
    """

    field: str
    content: Any
    result: Result | None = None


LISTS = {
    "start_flow_runs": "flow_runs",
    "set_task_run_states": "states",
    "set_flow_run_states": "states",
    "write_run_logs": "logs",
}
"""Mutation that takes a list to the name of the list: all such writes of a batch make one field."""

ANSWERED = ("start_flow_runs", "set_task_run_states", "set_flow_run_states")
"""Those of them that answer with a list of the same name, an item for each."""

_ORDER = {
    "start_flow_runs": 0,
    "set_task_run_name": 1,
    "set_task_run_states": 2,
    "set_flow_run_states": 3,
    "update_flow_run_heartbeat": 4,
    "create_task_run_artifact": 5,
    "write_run_logs": 6,
}


def combined(writes: Sequence[Write]) -> tuple[str, dict[str, Any], list[str]]:
    """Put writes into one request.

    Returns:
        - tuple: the document, its variables, and for each write the key of its answer
    """
    variables: dict[str, Any] = {}
    shape: dict[str, str] = {}
    keys: list[str] = []
    count: Counter[str] = Counter()
    for write in writes:
        listed = LISTS.get(write.field)
        if listed is None:
            count[write.field] += 1
            key = f"{write.field}_{count[write.field]}"
            variables[key] = write.content
        else:
            key = write.field
            variables.setdefault(key, {listed: []})[listed].extend(write.content)
        shape[key] = write.field
        keys.append(key)
    return _combined_text(tuple(sorted(shape.items(), key=lambda item: _ORDER[item[1]]))), variables, keys


@lru_cache(maxsize=1024)
def _combined_text(shape: tuple[tuple[str, str], ...]) -> str:
    declared = ", ".join(f"${key}: {field}_input!" for key, field in shape)
    fields = "\n".join(
        f"  {key}: {field}(input: ${key}) {{ {_ITEM_BY_ITEM.get(field) or _ANSWERS[field]} }}" for key, field in shape
    )
    return f"mutation ({declared}) {{\n{fields}\n}}"


class StartItem(msgspec.Struct, gc=False, omit_defaults=True):
    """One item of ``start_flow_runs``."""

    flow_id: str
    owner: str
    lease_seconds: float
    idempotency_key: str
    state: msgspec.Raw | None = None
    parameters: Mapping[str, Any] | None = None
    context: Mapping[str, Any] | None = None
    labels: Sequence[str] | None = None
    name: str | None = None


class FlowRunStateItem(msgspec.Struct, gc=False, omit_defaults=True):
    """One item of ``set_flow_run_states``."""

    flow_run_id: str
    version: int | None
    state: msgspec.Raw
    epoch: int | None = None
    rests_on: tuple[str, ...] = ()


class TaskRunStateItem(msgspec.Struct, gc=False, omit_defaults=True):
    """One item of ``set_task_run_states``."""

    task_run_id: str
    version: int | None
    state: msgspec.Raw
    epoch: int | None = None
    rests_on: tuple[str, ...] = ()


_LOG_BYTES = 1_000_000
_LONGEST_MESSAGE = 100_000


def log_lines(records: Sequence[LogRecord]) -> Iterator[list[bytes]]:
    """Return the items of ``write_run_logs`` as JSON, in portions that a request has room for.

    A line that would not fit into one is cut.
    """
    portion: list[bytes] = []
    size = 0
    for record in records:
        message = storable(record.message)
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[:_LONGEST_MESSAGE]} ... ({len(message):,} characters)"
        line = msgspec.json.encode(msgspec.structs.replace(record, name=storable(record.name), message=message))
        if portion and size + len(line) > _LOG_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(line)
        size += len(line)
    if portion:
        yield portion


def id_range(beginning: str) -> tuple[str, str] | None:
    """Return the first and the last id that begin with `beginning`, or None if no id does."""
    digits = beginning.lower().replace("-", "")
    if not digits or len(digits) > 32 or not set(digits) <= set("0123456789abcdef"):
        return None
    first, last = (_hyphenated(digits.ljust(32, fill)) for fill in "0f")
    return (first, last) if first.startswith(beginning.lower()) else None


def _hyphenated(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


# ---- answers -----------------------------------------------------------------------------------------


def row_state(row: Mapping[str, Any]) -> State:
    """Return the state in a row; a row that has none yet is of a run that is Pending."""
    document = row["serialized_state"]
    return Pending() if document is None else decode_state(document)


def task_run_info(row: Mapping[str, Any]) -> TaskRunInfoResult:
    """Return a task run, from a row as `FLOW_RUN_INFOS` selects it."""
    return TaskRunInfoResult(
        id=row["id"],
        task_id=row["task"]["id"],
        task_slug=row["task"]["slug"],
        version=row["version"],
        state=row_state(row),
        map_index=row["map_index"],
    )


def flow_run_info(row: Mapping[str, Any]) -> FlowRunInfoResult:
    """Return a flow run, from a row as `FLOW_RUN_INFOS` selects it."""
    project = row["flow"]["project"] or {"id": "", "name": ""}
    return FlowRunInfoResult(
        id=row["id"],
        name=row["name"] or "",
        flow_id=row["flow_id"],
        version=row["version"],
        state=row_state(row),
        task_runs=[task_run_info(task_run) for task_run in row["task_runs"]],
        parameters=row["parameters"] or {},
        context=row["context"] or {},
        scheduled_start_time=moment(row["scheduled_start_time"]),
        project=ProjectInfo(project["id"], project["name"]),
        heartbeat=moment(row["heartbeat"]),
        owner=row.get("owner"),
        epoch=row.get("epoch", 0),
        start_time=moment(row["start_time"]),
        limits=row.get("limits"),
    )


def started_flow_run(row: Mapping[str, Any], sent: State | None) -> FlowRunInfoResult:
    """Return a flow run that has just been started, from an item of the answer to ``start_flow_runs``."""
    project = row["project"] or {"id": "", "name": ""}
    return FlowRunInfoResult(
        id=row["id"],
        name=row["name"] or "",
        flow_id=row["flow_id"],
        version=row["version"],
        state=sent if sent is not None and row["serialized_state"] is None else row_state(row),
        task_runs=[
            TaskRunInfoResult(run["id"], run["task_id"], run["task_slug"], run["version"], row_state(run))
            for run in row["task_runs"]
        ],
        parameters=row["parameters"] or {},
        context=row["context"] or {},
        scheduled_start_time=moment(row["scheduled_start_time"]),
        project=ProjectInfo(project["id"], project["name"]),
        heartbeat=moment(row["heartbeat"]),
        owner=row["owner"],
        epoch=row["epoch"],
        start_time=moment(row["start_time"]),
        limits=row["limits"],
    )


def conditions(only: FlowRunFilter | None) -> dict[str, Any]:
    """Return a filter as the argument ``where`` of a list of flow runs."""
    if only is None:
        return {}
    found: list[dict[str, Any]] = []
    if only.flow is not None:
        found.append({"flow": {"name": {"_eq": only.flow}}})
    if only.states:
        found.append({"state": {"_in": list(only.states)}})
    if only.since is not None:
        found.append({"created": {"_gte": only.since}})
    if only.until is not None:
        found.append({"created": {"_lt": only.until}})
    if only.search is not None:
        part = "".join(f"\\{one}" if one in "\\%_" else one for one in only.search)
        name = {"name": {"_ilike": f"%{part}%"}}
        found.append({"_or": [name, {"flow": name}]})
    if only.due_before is not None:
        due = {"scheduled_start_time": {"_lt": only.due_before}}
        found.append({"_or": [{"state": {"_neq": "Scheduled"}}, due, {"scheduled_start_time": {"_is_null": True}}]})
    if not only.parts:
        found.append({"parent_task_run_id": {"_is_null": True}})
    if only.part_of is not None:
        found.append({"parent_task_run": {"flow_run_id": {"_eq": only.part_of}}})
    return {"_and": found}


def flow_summary(row: Mapping[str, Any]) -> FlowSummary:
    """Return one line of a list of flows, from a row as `FLOWS` selects it."""
    planned = row["flow_runs"]
    return FlowSummary(
        id=row["id"],
        name=row["name"],
        version=row["version"],
        project=(row["project"] or {"name": ""})["name"],
        has_schedule=bool((row["flow_group"] or {}).get("schedule") or row["schedule"]),
        schedule_active=row["is_schedule_active"],
        next_run=moment(planned[0]["scheduled_start_time"]) if planned else None,
        parameters=row["parameters"] or [],
    )


def directive(row: Mapping[str, Any]) -> Directive:
    """Return what was asked of a flow run, from a row as `DIRECTIVES` selects it."""
    times = {"created": _known(moment(row["created"])), "obeyed": moment(row["obeyed"])}
    return Directive(**{name: row[name] for name in Directive.__struct_fields__} | times)


def artifact(row: Mapping[str, Any]) -> ArtifactRecord:
    """Return an artifact, from a row as `ARTIFACTS` selects it."""
    created = _known(moment(row["created"]))
    return ArtifactRecord(row["id"], row["task_run_id"], row["kind"], row["data"], created)


def log_record(row: Mapping[str, Any]) -> LogRecord:
    """Return a line of a log, from a row as `LOGS` selects it."""
    time = _known(moment(row["timestamp"]))
    return LogRecord(
        row["flow_run_id"], row["task_run_id"], time, row["name"] or "", row["level"], row["message"] or ""
    )


def flow_run_summary(row: Mapping[str, Any]) -> FlowRunSummary:
    """Return one line of a list of flow runs."""
    return FlowRunSummary(
        id=row["id"],
        name=row["name"] or "",
        flow_name=row["flow"]["name"],
        state=row["state"],
        state_message=row["state_message"],
        created=_known(moment(row["created"])),
        start_time=moment(row["start_time"]),
        end_time=moment(row["end_time"]),
        scheduled_start_time=moment(row["scheduled_start_time"]),
        parent_task_run_id=row.get("parent_task_run_id"),
    )


def task_run_history(row: Mapping[str, Any], tracebacks: Mapping[int, str | None]) -> TaskRunHistory:
    """Return one task run with its states, from a row as `TASK_RUN_HISTORIES` selects it.

    Args:
        - row: the row
        - tracebacks: those of its failed states, by their versions
    """
    return TaskRunHistory(
        id=row["id"],
        task_slug=row["task"]["slug"],
        map_index=row["map_index"],
        name=row["name"],
        states=list(_state_records(row["states"], tracebacks)),
        start_time=moment(row["start_time"]),
        end_time=moment(row["end_time"]),
    )


def _state_records(rows: Sequence[Mapping[str, Any]], tracebacks: Mapping[int, str | None]) -> Iterator[StateRecord]:
    for row in rows:
        version, time = row["version"], _known(moment(row["timestamp"]))
        yield StateRecord(version, time, row["state"], row["message"], tracebacks.get(version))


def moment(value: str | datetime.datetime | None) -> datetime.datetime | None:
    """Return the moment an answer shows; one without an offset is in UTC."""
    if value is None:
        return None
    try:
        time = value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(value)
    except ValueError as error:
        raise DialectError(f"{value!r} is not a date and time") from error
    return time if time.tzinfo is not None else time.replace(tzinfo=datetime.UTC)


def _known(time: datetime.datetime | None) -> datetime.datetime:
    if time is None:
        raise DialectError("a row has no date and time where every row has one")
    return time
