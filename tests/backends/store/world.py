"""What the tests of the store share: a clock to move, documents, and a flow with a run."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import select

from flowloop.backends.store import Caller, Outcome, ScheduledEvent, StateUpdate, Store
from flowloop.backends.store.schema import metadata

START = datetime.datetime(2021, 7, 1, 12, tzinfo=datetime.UTC)
FENCED = Caller(client_id="client-1")
RIVAL = Caller(client_id="client-2")
PREFECT = Caller(core_version="1.4.1")


class ManualClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime.datetime:
        return self.time

    def move(self, **span: float) -> None:
        self.time += datetime.timedelta(**span)


def state(kind: str, message: str = "", **fields: Any) -> bytes:
    """The document of a state."""
    return msgspec.json.encode({"type": kind, "message": message or kind, **fields})


def flow_document(*slugs: str, **fields: Any) -> dict[str, Any]:
    """The document of a flow with these tasks, chained."""
    slugs = slugs or ("a", "b")
    tasks = [{"slug": slug, "name": slug.upper(), "type": "Task", "tags": []} for slug in slugs]
    edges = [
        {"upstream_task": {"slug": up}, "downstream_task": {"slug": down}, "key": "x"}
        for up, down in itertools.pairwise(slugs)
    ]
    document = {"name": "flow", "parameters": [], "tasks": tasks, "edges": edges, "__version__": "1.4.1"}
    return document | fields


class World:
    """A store with a flow and a run of it, and short names for what tests do to them."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.project_id = ""
        self.flow_id = ""
        self.run_id = ""
        self.task_runs: dict[str, str] = {}
        self.tasks: dict[str, str] = {}

    async def build(self, document: dict[str, Any] | None = None, caller: Caller = FENCED) -> World:
        """Register a flow, version locked or not by its caller, and create a run."""
        self.project_id = (await self.store.get_or_create_project(caller, name="demo"))["id"]
        flow = await self.store.create_flow(
            caller, project_id=self.project_id, serialized_flow=document or flow_document()
        )
        self.flow_id = flow["id"]
        await self.new_run(caller)
        return self

    async def new_run(self, caller: Caller = FENCED, **fields: Any) -> str:
        self.run_id = (await self.store.create_flow_run(caller, flow_id=self.flow_id, **fields))["id"]
        info = await self.store.get_flow_run_info(caller, flow_run_id=self.run_id)
        self.task_runs = {row["task_slug"]: row["id"] for row in info["task_runs"]}
        self.tasks = {row["task_slug"]: row["task_id"] for row in info["task_runs"]}
        return self.run_id

    async def start(self, caller: Caller = FENCED) -> None:
        """Bring the flow run to Running."""
        assert (await self.flow_state(state("Running"), 1, caller)).status == "SUCCESS"

    async def flow_state(
        self, document: bytes, version: int | None = None, caller: Caller = FENCED, epoch: int | None = None
    ) -> Outcome:
        return (await self.store.set_flow_run_states(caller, [StateUpdate(self.run_id, document, version, epoch)]))[0]

    async def task_state(
        self,
        slug: str,
        document: bytes,
        version: int | None = None,
        caller: Caller = FENCED,
        epoch: int | None = None,
    ) -> Outcome:
        update = StateUpdate(self.task_runs.get(slug, slug), document, version, epoch)
        return (await self.store.set_task_run_states(caller, [update]))[0]

    async def rows(self, table: str, **where: Any) -> list[dict[str, Any]]:
        """Rows of a table, in the order of their ids."""
        columns = metadata.tables[table].c
        wanted = select(*columns).where(*(columns[name] == value for name, value in where.items()))
        order = columns.get("id")
        async with self.store.engine.connect() as connection:
            found = await connection.execute(wanted if order is None else wanted.order_by(order))
            return [dict(row) for row in found.mappings()]

    async def row(self, table: str, row_id: str) -> dict[str, Any]:
        found = await self.rows(table, id=row_id)
        assert len(found) == 1, f"{len(found)} rows of {table} with id {row_id}"
        return found[0]

    async def flow_run(self) -> dict[str, Any]:
        return await self.row("flow_run", self.run_id)

    async def task_run(self, slug: str) -> dict[str, Any]:
        return await self.row("task_run", self.task_runs[slug])

    async def history(self, slug: str) -> list[str]:
        """The states a task run went through, Pending at its creation included."""
        rows = await self.rows("task_run_state", task_run_id=self.task_runs[slug])
        return [row["state"] for row in sorted(rows, key=lambda row: row["version"])]


def events_every_hour(schedule: dict[str, Any], after: datetime.datetime, count: int) -> Sequence[Any]:
    """A schedule that is read without a cron: one event an hour for every clock."""
    if schedule.get("broken"):
        raise ValueError("this schedule is broken")
    first = after.replace(minute=0, second=0, microsecond=0) + datetime.timedelta(hours=1)
    return [
        ScheduledEvent(first + datetime.timedelta(hours=n), item.get("parameter_defaults") or {}, item.get("labels"))
        for n in range(count)
        for item in schedule["clocks"]
    ][:count]
