"""What the services do: each function is one pass, at the time of its transaction.

The loops that call them, and their intervals, belong to the server.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, RowMapping, Text, and_, cast, delete, exists, func, or_, select, true

from ...engine import lifecycle
from . import ownership, parts, scheduling
from .deaths import free_places
from .queue import AGENTLESS
from .records import Payload, StateUpdate
from .transitions import set_states, state_update
from .tx import Tx, tables

__all__ = [
    "acquire_lease",
    "count_runs",
    "delete_flow_runs",
    "find_active_schedules",
    "forget",
    "kill_zombies",
    "old_flow_runs",
    "prune_rest",
    "release_lease",
    "revive",
]

SILENCE = datetime.timedelta(minutes=10)
"""After how long without a sign of life a run counts as dead."""

LATELY = datetime.timedelta(days=1)
"""For how long after the end of a flow run its task runs are looked after."""

RESURRECTIONS = 3
"""How often Lazarus schedules a flow run again before it gives up."""

ZOMBIES = 5000
LAZARI = 500

ANSWERS_KEPT = datetime.timedelta(hours=1)
"""How long the answer to a batch with an idempotency key is kept."""

EXPIRED_KEYS_KEPT = datetime.timedelta(days=30)
"""How long an API key that has expired is still listed."""


# -- which process runs a service ----------------------------------------------------------------------


def acquire_lease(tx: Tx, *, service: str, holder: str, seconds: float) -> bool:
    """Take or prolong the right to run a service.

    Args:
        - service: its name
        - holder: who wants it, unique between processes
        - seconds: for how long

    Returns:
        - bool: whether the holder has it now
    """
    lease = tables["lease"].c
    expires = tx.now + datetime.timedelta(seconds=seconds)
    claim = tx.upsert("lease").values(service=service, holder=holder, expires=expires)
    claim = claim.on_conflict_do_update(
        index_elements=["service"],
        set_={"holder": holder, "expires": expires},
        where=or_(lease.holder == holder, lease.expires <= tx.now),
    )
    return tx.run(claim) > 0


def release_lease(tx: Tx, *, service: str, holder: str) -> None:
    """Give the right to run a service back."""
    lease = tables["lease"].c
    tx.run(delete(tables["lease"]).where(lease.service == service, lease.holder == holder))


# -- scheduler -----------------------------------------------------------------------------------------


def find_active_schedules(tx: Tx, *, after: str = "", limit: int = 500) -> list[str]:
    """Return a page of the ids of flows whose schedule is active; `after` is the last id of the page before."""
    flow = tables["flow"].c
    active = select(flow.id).where(flow.is_schedule_active.is_(True), flow.archived.is_(False))
    if after:
        active = active.where(flow.id > after)
    return list(tx.connection.execute(active.order_by(flow.id).limit(limit)).scalars())


schedule_flow_runs = scheduling.schedule_flow_runs


# -- zombie killer -------------------------------------------------------------------------------------


def kill_zombies(tx: Tx, *, silence: datetime.timedelta = SILENCE) -> Payload:
    """Fail or retry the running task runs of silent flow runs, and fail silent flow runs that are cancelling.

    What runs of dead owners hold under limits is given back.

    Returns:
        - Payload: ``task_runs`` and ``flow_runs``: how many of each
    """
    cutoff = tx.now - silence
    free_places(tx)
    zombies = _zombie_task_runs(tx, cutoff)
    updates: list[StateUpdate] = []
    lines: list[tuple[RowMapping, str]] = []
    for row in zombies:
        update_, text = _sentence(tx, row)
        updates.append(update_)
        lines.append((row, text))
    outcomes = set_states(tx, "task_run", updates)
    killed = [line for line, outcome in zip(lines, outcomes, strict=True) if outcome.status == "SUCCESS"]
    _write_logs(tx, [(row, row["id"], row["flow_run_id"], "ERROR", text) for row, text in killed])
    ended = _end_cancelling(tx, cutoff)
    return {"task_runs": len(killed), "flow_runs": ended}


def _zombie_task_runs(tx: Tx, cutoff: datetime.datetime) -> list[RowMapping]:
    run, task, flow_run = tables["task_run"], tables["task"], tables["flow_run"]
    history = tables["task_run_state"].c
    retries = select(func.count()).where(history.task_run_id == run.c.id, history.state == "Retrying").scalar_subquery()
    running = (
        select(
            run.c.id,
            run.c.tenant_id,
            run.c.flow_run_id,
            task.c.name.label("task_name"),
            task.c.max_retries,
            task.c.retry_delay,
            flow_run.c.state.label("flow_run_state"),
            retries.label("retries"),
        )
        .select_from(run.join(flow_run, run.c.flow_run_id == flow_run.c.id).join(task, run.c.task_id == task.c.id))
        .where(run.c.state.in_(sorted(lifecycle.BEGINS["task_run"])))
        .order_by(run.c.id)
    )
    zombies: list[RowMapping] = []
    for flow_run_id in _silent_flow_runs(tx, cutoff):
        if len(zombies) < ZOMBIES:
            zombies += tx.all(running.where(run.c.flow_run_id == flow_run_id).limit(ZOMBIES - len(zombies)))
    return zombies


def _silent_flow_runs(tx: Tx, cutoff: datetime.datetime) -> Sequence[str]:
    """Return the flow runs without a sign of life since a moment: those that go on, or have ended lately."""
    run, flow, group = tables["flow_run"], tables["flow"], tables["flow_group"]
    joined = run.join(flow, run.c.flow_id == flow.c.id).join(group, flow.c.flow_group_id == group.c.id)
    ended_lately = and_(run.c.state.in_(sorted(lifecycle.FINISHED)), run.c.state_timestamp > cutoff - LATELY)
    silent = select(run.c.id).select_from(joined).where(*_silent(tx, cutoff), _unless_off("heartbeat_enabled"))
    chosen = silent.where(or_(run.c.state.in_(sorted(lifecycle.UNFINISHED)), ended_lately))
    return tx.connection.execute(chosen.order_by(run.c.heartbeat.desc(), run.c.id).limit(ZOMBIES)).scalars().all()


def _silent(tx: Tx, cutoff: datetime.datetime) -> tuple[ColumnElement[bool], ...]:
    """The conditions that a flow run gives no sign of life, whatever its owner promised."""
    return tables["flow_run"].c.heartbeat <= cutoff, ownership.silent(tx), parts.whole()


def _unless_off(setting: str) -> ColumnElement[bool]:
    """The condition that a flow group does not have a setting switched off."""
    return func.coalesce(tables["flow_group"].c.settings[setting].as_boolean(), true())


def _sentence(tx: Tx, row: RowMapping) -> tuple[StateUpdate, str]:
    attempt = row["retries"] + 1
    if row["retries"] < row["max_retries"] and row["flow_run_state"] == "Running":
        text = (
            "No heartbeat detected from the remote task; retrying the run."  # the dialect has no space here
            f"This will be retry {attempt} of {row['max_retries']}."
        )
        start = tx.now + _delay(row["retry_delay"])
        return state_update(row["id"], "Retrying", text, run_count=attempt, start_time=start.isoformat()), text
    who = f"{row['id']} ({row['task_name']})"
    text = f"No heartbeat detected from the remote task; marking the task run {who} as failed."
    return state_update(row["id"], "Failed", text), text


def _delay(interval: str | None) -> datetime.timedelta:
    hours, minutes, seconds = (interval or "0:0:0").split(":")
    return datetime.timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))


def _end_cancelling(tx: Tx, cutoff: datetime.datetime) -> int:
    run, flow, group = tables["flow_run"], tables["flow"], tables["flow_group"]
    joined = run.join(flow, run.c.flow_id == flow.c.id).join(group, flow.c.flow_group_id == group.c.id)
    silent = tx.all(
        select(run.c.id, run.c.tenant_id)
        .select_from(joined)
        .where(run.c.state == "Cancelling", *_silent(tx, cutoff), _unless_off("heartbeat_enabled"))
        .limit(ZOMBIES)
    )
    text = "No heartbeat detected from the flow run; marking the run as failed."
    set_states(tx, "flow_run", [state_update(row["id"], "Failed", text) for row in silent])
    _write_logs(tx, [(row, None, row["id"], "ERROR", text) for row in silent])
    return len(silent)


def _write_logs(tx: Tx, lines: Sequence[tuple[RowMapping, str | None, str, str, str]], name: str = "") -> None:
    tx.insert_many(
        "log",
        [
            {
                "tenant_id": row["tenant_id"],
                "task_run_id": task_run_id,
                "flow_run_id": flow_run_id,
                "timestamp": tx.now,
                "name": name or "flowloop.ZombieKiller",
                "level": level,
                "message": text,
            }
            for row, task_run_id, flow_run_id, level, text in lines
        ],
    )


# -- Lazarus -------------------------------------------------------------------------------------------


def revive(tx: Tx, *, silence: datetime.timedelta = SILENCE) -> Payload:
    """Schedule silent flow runs again that have no live task run, and fail those that this has not helped.

    Returns:
        - Payload: ``rescheduled`` and ``failed``: how many of each
    """
    run, flow, group, task_run = tables["flow_run"], tables["flow"], tables["flow_group"], tables["task_run"].c
    joined = run.join(flow, run.c.flow_id == flow.c.id).join(group, flow.c.flow_group_id == group.c.id)
    live = exists().where(task_run.flow_run_id == run.c.id, task_run.state.in_(sorted(lifecycle.PENDING)))
    silent = tx.all(
        select(run.c.id, run.c.tenant_id, run.c.times_resurrected, run.c.owner)
        .select_from(joined)
        .where(
            run.c.state.in_(["Running", "Submitted"]),
            *_silent(tx, tx.now - silence),
            ~live,
            _unless_off("heartbeat_enabled"),
            _unless_off("lazarus_enabled"),
        )
        .order_by(run.c.id)
        .limit(LAZARI)
    )
    # of an owner that has died the death counts, as it does when others claim the run; of others each attempt to help
    worn = [row for row in silent if row["times_resurrected"] + (row["owner"] is not None) >= RESURRECTIONS]
    again = [row for row in silent if row not in worn]
    lost = [row for row in worn if row["owner"] is None]
    for row in worn:
        if row["owner"] is not None:
            ownership.end_lapsed(tx, row["id"], row["times_resurrected"] + 1)
    text = "Rescheduled by a Lazarus process."
    set_states(
        tx, "flow_run", [state_update(row["id"], "Scheduled", text, start_time=tx.now.isoformat()) for row in again]
    )
    if again:
        counter = tables["flow_run"].c.times_resurrected
        tx.update("flow_run", run.c.id.in_([row["id"] for row in again]), times_resurrected=counter + 1)
    lines = [(row, None, row["id"], "INFO", f"{text} This is attempt {row['times_resurrected'] + 1}.") for row in again]
    failed = (
        f"A Lazarus process attempted to reschedule this run {RESURRECTIONS} times without success. Marking as failed."
    )
    set_states(tx, "flow_run", [state_update(row["id"], "Failed", failed) for row in lost])
    lines += [(row, None, row["id"], "ERROR", failed) for row in lost]
    _write_logs(tx, lines, "flowloop.Lazarus")
    return {"rescheduled": len(again), "failed": len(worn)}


# -- how the runs are ----------------------------------------------------------------------------------


def count_runs(tx: Tx) -> Payload:
    """Return how the flow runs are: ``runs`` that are not finished and ``ended`` within an hour, by state; ``age``, for
    how many seconds the first one waits that is due and that nobody has; and ``queue``, how many of these there are, by
    the labels that a worker has to have.
    """
    run = tables["flow_run"].c
    by_state = select(run.state, func.count()).group_by(run.state)
    lately = run.state.in_(sorted(lifecycle.FINISHED)), run.state_timestamp >= tx.now - datetime.timedelta(hours=1)
    due = run.state.in_(sorted(lifecycle.WAITING)), run.state_start_time <= tx.now, run.owner.is_(None), parts.whole()
    first = tx.scalar(select(func.min(run.state_start_time)).where(*due))
    unfinished = tx.connection.execute(by_state.where(run.state.in_(sorted(lifecycle.UNFINISHED)))).all()
    return {
        "runs": {row[0]: row[1] for row in unfinished},
        "ended": {row[0]: row[1] for row in tx.connection.execute(by_state.where(*lately))},
        "queue": _queued(tx, due),
        "age": 0.0 if first is None else max((tx.now - first).total_seconds(), 0.0),
    }


def _queued(tx: Tx, due: Sequence[ColumnElement[bool]]) -> dict[str, int]:
    labels = cast(tables["flow_run"].c.labels, Text)
    queued: dict[str, int] = {}
    for text, count in tx.connection.execute(select(labels, func.count()).where(*due).group_by(labels)):
        pool = ",".join(sorted(label for label in msgspec.json.decode(text) if not label.startswith(AGENTLESS)))
        queued[pool] = queued.get(pool, 0) + count
    return queued


# -- retention -----------------------------------------------------------------------------------------


def old_flow_runs(tx: Tx, *, before: datetime.datetime, limit: int = 100) -> list[str]:
    """Return flow runs that finished before a moment.

    Args:
        - before: the moment
        - limit: how many at most, so that one transaction does not last too long
    """
    run = tables["flow_run"].c
    old = select(run.id).where(run.state.in_(sorted(lifecycle.FINISHED)), run.state_timestamp < before)
    return list(tx.connection.execute(old.order_by(run.id).limit(limit)).scalars())


def delete_flow_runs(tx: Tx, flow_run_ids: Sequence[str]) -> None:
    """Delete flow runs, with all that belongs to them."""
    if flow_run_ids:
        tx.run(delete(tables["flow_run"]).where(tables["flow_run"].c.id.in_(flow_run_ids)))


def prune_rest(tx: Tx, *, before: datetime.datetime) -> Payload:
    """Delete what no run holds on to any more: archived flows, groups, agents, messages, logs, from before a moment.

    Returns:
        - Payload: how many rows of each table were deleted
    """
    flow, group, agent = tables["flow"], tables["flow_group"], tables["agent"]
    run, message, log = tables["flow_run"].c, tables["message"], tables["log"]
    flows = delete(flow).where(
        flow.c.archived.is_(True), flow.c.updated < before, ~exists().where(run.flow_id == flow.c.id)
    )
    groups = delete(group).where(group.c.updated < before, ~exists().where(flow.c.flow_group_id == group.c.id))
    agents = delete(agent).where(func.coalesce(agent.c.last_queried, agent.c.created) < before)
    return {
        "flow": tx.run(flows),
        "flow_group": tx.run(groups),
        "agent": tx.run(agents),
        "message": tx.run(delete(message).where(message.c.created < before)),
        "log": tx.run(delete(log).where(log.c.timestamp < before, log.c.flow_run_id.is_(None))),
    }


def forget(tx: Tx) -> None:
    """Delete what has had its day: old answers to batches; keys and leases that ran out long ago."""
    answer, lease = tables["answer"].c, tables["lease"].c
    tx.run(delete(tables["answer"]).where(answer.created < tx.now - ANSWERS_KEPT))
    tx.run(delete(tables["api_key"]).where(tables["api_key"].c.expires_at < tx.now - EXPIRED_KEYS_KEPT))
    tx.run(delete(tables["lease"]).where(lease.expires < tx.now - ANSWERS_KEPT))
