"""What changed since: the feeds of pages, which are told of much in little, and may go away and come back.

A feed says no more often than it was asked to what is different now. It reads that from the tables, so nothing is
missed and nothing grows while a reader is slow; a cursor, the id of the newest state row, says where to go on.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from typing import Any

import anyio
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ...engine.errors import BackendRejected
from ..store import StateChange, Store
from ..store.ids import is_id
from ..store.schema import metadata
from .database import reading
from .errors import ShuttingDown
from .request import Call
from .summaries import counts_of, run_of

__all__ = ["UNHEARD", "Changes"]

_AT_ONCE = 5_000
"""How many changed rows an answer may hold; with more, a reader is told to ask for them all."""

_OVERLAP = 2_000
"""Milliseconds by which a state may be committed after one that was made later; a version tells what was told."""

_SHARE = 20.0
"""A count that takes a while is taken less often: it may use a twentieth of the time,"""

_AT_LEAST_EVERY = 10.0
"""but so many seconds are enough for who looks on: one that took long may have waited for others."""

UNHEARD = 5.0
"""Seconds between two looks at the flow runs where other processes are heard: not all that counts is told of."""

_KEEP_ALIVE = 15.0
_SHORTEST = 0.05

Answer = dict[str, Any]
Answers = AsyncGenerator[Answer | None]
_LEVELS = frozenset({"NOTSET", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})


class _Bell:
    """Rings when something happens to a flow run, to any if it is None."""

    def __init__(self, flow_run_id: str | None) -> None:
        self.flow_run_id = flow_run_id
        self.rung = anyio.Event()


class Changes:
    """Answers the subscriptions that begin with what is there and go on with what is different.

    Args:
        - store: whose changes
        - poll_seconds: how often the changes of other processes are looked for

    `hears` says whether the flow runs that other processes move are told of, so that they have to be looked for less.
    """

    def __init__(self, store: Store, poll_seconds: float) -> None:
        self._store = store
        self._poll_seconds = poll_seconds
        self._bells: weakref.WeakSet[_Bell] = weakref.WeakSet()
        self.hears = False
        self._closing = anyio.Event()
        self.feeds: Mapping[str, Callable[[Call, Mapping[str, Any]], Answers]] = {
            "run_changes": self._run_changes,
            "runs_changes": self._runs_changes,
            "run_logs": self._run_logs,
        }

    def publish(self, changes: Sequence[StateChange]) -> None:
        """Wake the feeds that changes of this process concern."""
        self.wake({change.flow_run_id for change in changes})

    def wake(self, flow_run_ids: Collection[str]) -> None:
        """Wake the feeds that these flow runs concern, or every feed if it may be any of them."""
        for bell in self._bells:
            if bell.flow_run_id is None or not flow_run_ids or bell.flow_run_id in flow_run_ids:
                bell.rung.set()

    def close(self) -> None:
        """End every feed."""
        self._closing.set()
        for bell in self._bells:
            bell.rung.set()

    def _bell(self, flow_run_id: str | None) -> _Bell:
        """Return what wakes a feed as long as it goes on, also while it reads or its answer is on the way."""
        bell = _Bell(flow_run_id)
        self._bells.add(bell)
        return bell

    async def _rest(self, bell: _Bell, every: float, seconds: float) -> None:
        """Wait for `every` seconds, and then until something happens, or for `seconds` in all.

        Raises:
            - ShuttingDown: if the feeds are closed
        """
        with anyio.move_on_after(every):
            await self._closing.wait()
        with anyio.move_on_after(seconds - every):
            await bell.rung.wait()
        bell.rung = anyio.Event()
        if self._closing.is_set():
            raise ShuttingDown("The server is stopping: subscribe again.")

    # -- one flow run --------------------------------------------------------------------------------------

    async def _run_changes(self, call: Call, given: Mapping[str, Any]) -> Answers:
        flow_run_id, tasks = given["flow_run_id"], given.get("tasks") or []
        every = max(given["every"], _SHORTEST)
        cursor: str | None = _cursor(given.get("after"))
        told: dict[str, Answer] = {}
        versions: dict[str, int] = {}
        run_version = 0
        quiet = time.monotonic()
        bell = self._bell(flow_run_id)
        while True:
            begun = time.monotonic()
            answer: Answer = {"reset": False, "run": None, "tasks": [], "rows": []}
            async with reading(self._store, call.budget.seconds) as connection:
                run = await run_of(connection, call, flow_run_id)
                newest = await _newest(connection, "task_run_state")
                if newest != cursor or not told:
                    counted = {task["task_id"]: task for task in await counts_of(connection, flow_run_id)}
                    answer["tasks"] = [task for key, task in counted.items() if told.get(key) != task]
                    if tasks and cursor is not None:
                        rows = await _changed(connection, flow_run_id, tasks, cursor)
                        answer["reset"] = len(rows) > _AT_ONCE
                        answer["rows"] = [] if answer["reset"] else _untold(rows, versions)
                    told = counted
            if run.version != run_version:
                answer["run"] = _head(run)
                run_version = run.version
            cursor = answer["cursor"] = newest
            if answer["run"] or answer["tasks"] or answer["rows"] or answer["reset"]:
                quiet = time.monotonic()
                yield answer
            elif time.monotonic() - quiet > _KEEP_ALIVE:
                quiet = time.monotonic()
                yield None
            took = time.monotonic() - begun
            await self._rest(bell, max(every, min(took * _SHARE, _AT_LEAST_EVERY)), self._poll_seconds)

    # -- all flow runs -------------------------------------------------------------------------------------

    async def _runs_changes(self, call: Call, given: Mapping[str, Any]) -> Answers:
        every = max(given["every"], _SHORTEST)
        cursor = _cursor(given.get("after"))
        tenants = call.tenants("flow_run")
        versions: dict[str, int] = {}
        paused: int | None = None
        quiet = time.monotonic()
        bell = self._bell(None)
        while True:
            async with reading(self._store, call.budget.seconds) as connection:
                newest = await _newest(connection, "flow_run_state")
                rows = await _changed_runs(connection, cursor, tenants) if cursor is not None else []
                waiting = await _paused(connection, tenants)
            reset = len(rows) > _AT_ONCE
            runs = [] if reset else _untold(rows, versions)
            if cursor is None or runs or reset or waiting != paused:
                quiet = time.monotonic()
                yield {"cursor": newest, "reset": reset, "flow_runs": runs, "paused": waiting}
            elif time.monotonic() - quiet > _KEEP_ALIVE:
                quiet = time.monotonic()
                yield None
            cursor, paused = newest, waiting
            await self._rest(bell, every, UNHEARD if self.hears else self._poll_seconds)

    # -- logs ----------------------------------------------------------------------------------------------

    async def _run_logs(self, call: Call, given: Mapping[str, Any]) -> Answers:
        every = max(given["every"], _SHORTEST)
        levels = given.get("levels")
        if levels is not None and not _LEVELS.issuperset(levels):
            raise BackendRejected(f"levels are some of {', '.join(sorted(_LEVELS))}")
        log = metadata.tables["log"].c
        cursor = _cursor(given.get("after"))
        known: dict[str, None] = {}
        is_behind = False
        quiet = time.monotonic()
        bell = self._bell("")
        while True:
            async with reading(self._store, call.budget.seconds) as connection:
                run = await run_of(connection, call, given["flow_run_id"])
                newest = await _newest(connection, "log")
                lines: list[Answer] = []
                if cursor is not None and newest != cursor:
                    wanted = (
                        sa.select(log.id, log.task_run_id, log.timestamp, log.name, log.level, log.message)
                        .where(log.id > (cursor if is_behind else _earlier(cursor)), log.flow_run_id == run.id)
                        .order_by(log.id)
                        .limit(_AT_ONCE)
                    )
                    if given.get("task_run_id"):
                        wanted = wanted.where(log.task_run_id == given["task_run_id"])
                    if levels is not None:
                        wanted = wanted.where(log.level.in_(levels))
                    lines = [dict(row._mapping) for row in await connection.execute(wanted)]
            is_behind = len(lines) == _AT_ONCE
            if is_behind:
                newest = lines[-1]["id"]  # the rest comes with the next answer
            fresh = [line for line in lines if line["id"] not in known]
            known = dict.fromkeys([*known, *(line["id"] for line in fresh)][-2 * _AT_ONCE :])
            if cursor is None or fresh:
                quiet = time.monotonic()
                yield {"cursor": newest, "lines": fresh}
            elif time.monotonic() - quiet > _KEEP_ALIVE:
                quiet = time.monotonic()
                yield None
            cursor = newest
            await self._rest(bell, every, every)


# -- reading -----------------------------------------------------------------------------------------------


async def _newest(connection: AsyncConnection, table: str) -> str:
    row_id = metadata.tables[table].c.id
    found = (await connection.execute(sa.select(row_id).order_by(row_id.desc()).limit(1))).scalar()
    return str(found or "00000000-0000-7000-8000-000000000000")


async def _changed(connection: AsyncConnection, flow_run_id: str, tasks: Sequence[str], cursor: str) -> list[Answer]:
    """Return the states that the task runs of some tasks took after a cursor, in order."""
    state, run = metadata.tables["task_run_state"], metadata.tables["task_run"]
    wanted = (
        sa.select(
            run.c.id,
            run.c.task_id,
            run.c.map_index,
            state.c.version,
            state.c.state,
            state.c.message,
            state.c.timestamp,
        )
        .where(run.c.id == state.c.task_run_id, state.c.id > _earlier(cursor))
        .where(_opaque(run.c.flow_run_id) == flow_run_id, _opaque(run.c.task_id).in_(tasks))
        .order_by(state.c.id)
        .limit(_AT_ONCE + 1)
    )
    return await _read(connection, wanted)


async def _changed_runs(connection: AsyncConnection, cursor: str, tenants: Sequence[str] | None) -> list[Answer]:
    state, run = metadata.tables["flow_run_state"], metadata.tables["flow_run"]
    wanted = (
        sa.select(
            run.c.id,
            run.c.name,
            run.c.flow_id,
            run.c.parent_task_run_id,
            state.c.version,
            state.c.state,
            state.c.message,
            state.c.timestamp,
        )
        .where(run.c.id == state.c.flow_run_id, state.c.id > _earlier(cursor))
        .order_by(state.c.id)
        .limit(_AT_ONCE + 1)
    )
    if tenants is not None:
        wanted = wanted.where(run.c.tenant_id.in_(tenants))
    return await _read(connection, wanted)


def _opaque(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Keep a column from choosing the index: the range of ids is to come first, SQLite would begin at the run."""
    return sa.func.coalesce(column, sa.null())


async def _paused(connection: AsyncConnection, tenants: Sequence[str] | None) -> int:
    run = metadata.tables["task_run"].c
    counted = sa.select(sa.func.count()).where(run.attention == "Paused")
    if tenants is not None:
        counted = counted.where(run.tenant_id.in_(tenants))
    return int((await connection.execute(counted)).scalar() or 0)


async def _read(connection: AsyncConnection, statement: Any) -> list[Answer]:
    return [dict(row._mapping) for row in await connection.execute(statement)]


def _head(run: Any) -> Answer:
    return {
        "version": run.version,
        "state": run.state,
        "message": run.state_message,
        "timestamp": run.state_timestamp.isoformat(timespec="microseconds") if run.state_timestamp else None,
    }


def _untold(rows: Sequence[Answer], versions: dict[str, int]) -> list[Answer]:
    """Return the newest state of each run that has one which was not told, and note that it is now."""
    newest: dict[str, Answer] = {}
    for row in rows:
        if row["version"] > versions.get(row["id"], 0):
            versions[row["id"]] = row["version"]
            newest[row["id"]] = row
    while len(versions) > 4 * _AT_ONCE:
        del versions[next(iter(versions))]
    return list(newest.values())


def _cursor(given: str | None) -> str | None:
    if given is not None and not is_id(given):
        raise BackendRejected("after is the cursor of an earlier answer")
    return given


def _earlier(cursor: str) -> str:
    """Return the least id of the moment `_OVERLAP` before that of `cursor`: ids begin with their milliseconds."""
    milliseconds = max(0, int(cursor[:8] + cursor[9:13], 16) - _OVERLAP)
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7000-8000-000000000000"
