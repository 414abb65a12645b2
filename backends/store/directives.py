"""Directives on flow runs: recorded, and done where the store can do them in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import RowMapping, insert, select, update

from ...engine import lifecycle
from ...engine.directives import HELD, Directive, can_be, check_state, checked, limits_of, state_of
from ...engine.errors import BackendRejected
from ...engine.given import check_given
from ...engine.serialization import decode_state, encode_state
from . import flow_runs, parts
from .flow_runs import set_one
from .records import Payload, StateUpdate
from .task_runs import get_or_create_task_runs
from .transitions import set_states, state_update
from .tx import Tx, tables

__all__ = ["cancel_flow_run", "direct_flow_run", "list_directives", "obey_directive", "restart_flow_run"]

_FIELDS = Directive.__struct_fields__


def direct_flow_run(
    tx: Tx,
    *,
    flow_run_id: str,
    kind: str,
    task: str | None = None,
    map_index: int = -1,
    value: Any = None,
    note: str | None = None,
    author: str | None = None,
    tag: str | None = None,
) -> Payload:
    """Record a directive, and do what it asks; see `flowloop.engine.directives`.

    Args:
        - flow_run_id: the flow run
        - kind: what is asked
        - task: the slug of the task; of an event or a parameter its name
        - map_index: the mapped child; -1 is the task itself
        - value: what it brings
        - note: why
        - author: who asks; the name of the API key wins over what a client says
        - tag: the tag whose tasks it is about, in the place of one task

    Returns:
        - Payload: the fields of a directive, and ``state``: that of the flow run
    """
    checked(kind, task, tag, value)
    run = tx.row("flow_run", flow_run_id, "Invalid flow run ID.", lock=True)
    asked = Directive(
        id=tx.new_id(),
        flow_run_id=run["id"],
        kind=kind,
        author=tx.caller.key_name or author,
        created=tx.now,
        task=task,
        map_index=map_index,
        value=value,
        note=note,
        tag=tag,
        obeyed=None if kind == "event" else tx.now,
        epoch=None if kind == "event" else run["epoch"],
    )
    if kind == "event" and run["state"] in lifecycle.FINISHED:
        raise BackendRejected(f"Flow run {run['id']} is {run['state']}: nothing in it waits for an event.")
    if kind != "event":
        _EFFECTS[kind](tx, run, asked)
    row = {name: getattr(asked, name) for name in _FIELDS}
    tx.run(insert(tables["directive"]).values(**row, tenant_id=run["tenant_id"], updated=tx.now))
    now = tx.row("flow_run", run["id"], "Invalid flow run ID.")
    return {**row, "state": now["state"]}


def cancel_flow_run(tx: Tx, *, flow_run_id: str) -> Payload:
    """Ask for a flow run to be cancelled; see `flow_runs.cancel_flow_run`. It is recorded as a directive.

    Returns:
        - Payload: ``id`` and ``state``: the name of the state it is in now
    """
    asked = direct_flow_run(tx, flow_run_id=flow_run_id, kind="cancel")
    return {"id": asked["flow_run_id"], "state": asked["state"]}


def restart_flow_run(tx: Tx, *, flow_run_id: str) -> Payload:
    """Schedule a finished flow run again; see `flow_runs.restart_flow_run`. It is recorded as a directive.

    Returns:
        - Payload: ``id``, ``state``, and ``task_runs``: how many task runs became Pending
    """
    before = _pending(tx, flow_run_id)
    asked = direct_flow_run(tx, flow_run_id=flow_run_id, kind="restart")
    again = _pending(tx, flow_run_id) - before
    return {"id": asked["flow_run_id"], "state": asked["state"], "task_runs": again}


def _pending(tx: Tx, flow_run_id: str) -> int:
    run = tables["task_run"].c
    return len(tx.all(select(run.id).where(run.flow_run_id == flow_run_id, run.state == "Pending")))


def list_directives(tx: Tx, *, flow_run_id: str) -> list[Payload]:
    """Return what was asked of a flow run, oldest first: the fields of a directive."""
    table = tables["directive"].c
    columns = [table[name] for name in _FIELDS]
    found = select(*columns).where(tx.mine("directive"), table.flow_run_id == flow_run_id)
    return [dict(row) for row in tx.all(found.order_by(table.created, table.id))]


def obey_directive(tx: Tx, *, directive_id: str, epoch: int | None = None) -> Payload:
    """Note that a directive is done, once; ``success`` is false if it was done before."""
    row = tx.row("directive", directive_id, "Invalid directive ID.", lock=True)
    if row["obeyed"] is not None:
        return {"success": False}
    table = tables["directive"]
    tx.run(update(table).where(table.c.id == row["id"]).values(obeyed=tx.now, epoch=epoch, updated=tx.now))
    return {"success": True}


# -- what each of them does ----------------------------------------------------------------------------


def _cancel(tx: Tx, run: RowMapping, asked: Directive) -> None:
    flow_runs.cancel_flow_run(tx, flow_run_id=run["id"])


def _restart(tx: Tx, run: RowMapping, asked: Directive) -> None:
    flow_runs.restart_flow_run(tx, flow_run_id=run["id"])
    if asked.task is None:
        return
    task_run = tables["task_run"].c
    begins = _task(tx, run, asked.task)
    own = [task_run.task_id == begins["id"], *([task_run.map_index == asked.map_index] if asked.map_index >= 0 else [])]
    after = task_run.task_id.in_(_downstream(tx, run["flow_id"], begins["id"]))
    rows = [row for where in (own, [after]) for row in _runs(tx, run["id"], *where)]
    parts.begin_again(tx, [row["id"] for row in rows], afresh=True)
    ids = [row["id"] for row in rows if row["state"] != "Pending"]
    set_states(tx, "task_run", [state_update(row_id, "Pending", "Flow run restarted.") for row_id in ids])


def _runs(tx: Tx, flow_run_id: str, *where: Any) -> Sequence[RowMapping]:
    task_run = tables["task_run"].c
    return tx.all(select(task_run.id, task_run.state).where(task_run.flow_run_id == flow_run_id, *where))


def _downstream(tx: Tx, flow_id: str, task_id: str) -> list[str]:
    edge = tables["edge"].c
    following: dict[str, list[str]] = {}
    for row in tx.all(select(edge.upstream_task_id, edge.downstream_task_id).where(edge.flow_id == flow_id)):
        following.setdefault(row["upstream_task_id"], []).append(row["downstream_task_id"])
    found: dict[str, None] = {}
    waiting = [task_id]
    while waiting:
        for one in following.get(waiting.pop(), ()):
            if one not in found:
                found[one] = None
                waiting.append(one)
    return list(found)


def _move(tx: Tx, run: RowMapping, asked: Directive) -> None:
    """Bring what is asked about to the state that the directive leads to."""
    if run["state"] in lifecycle.FINISHED:
        raise BackendRejected(f"Flow run {run['id']} is {run['state']}: its task runs wait for nobody any more.")
    document = encode_state(state_of(asked))
    if asked.tag is not None:
        _move_tagged(tx, run, asked, document)
        return
    if asked.task is None:
        _move_paused(tx, run, asked, document)
        return
    task = _task(tx, run, asked.task)
    (found,) = get_or_create_task_runs(tx, flow_run_id=run["id"], task_id=task["id"], map_indices=[asked.map_index])
    check_state(asked.kind, found["state"] or "Pending", f"Task run {asked.task}", is_held=_is_held(found))
    outcome = set_states(tx, "task_run", [StateUpdate(found["id"], document)])[0]
    if outcome.error is not None:
        raise outcome.error
    if asked.kind != "hold":
        _wake(tx, run, state_of(asked).message)


def _move_paused(tx: Tx, run: RowMapping, asked: Directive, document: bytes) -> None:
    """Decide all task runs that are paused; where there are none, the flow run itself."""
    task_run = tables["task_run"].c
    found = select(task_run.id, task_run.state, task_run.serialized_state)
    rows = tx.all(found.where(task_run.flow_run_id == run["id"], task_run.state == "Paused"))
    chosen = [StateUpdate(row["id"], document) for row in rows if not _is_held(row)]
    if chosen:
        set_states(tx, "task_run", chosen)
    else:
        check_state(asked.kind, run["state"], f"Flow run {run['name'] or run['id']}")
        set_one(tx, StateUpdate(run["id"], document))
    _wake(tx, run, state_of(asked).message)


def _move_tagged(tx: Tx, run: RowMapping, asked: Directive, document: bytes) -> None:
    """Hold, or release, all task runs of the tasks with a tag that can be."""
    task, task_run = tables["task"].c, tables["task_run"].c
    of_flow = tx.all(select(task.id, task.tags).where(task.flow_id == run["flow_id"]))
    tagged = [row["id"] for row in of_flow if asked.tag in (row["tags"] or ())]
    found = select(task_run.id, task_run.state, task_run.serialized_state)
    rows = tx.all(found.where(task_run.flow_run_id == run["id"], task_run.task_id.in_(tagged)))
    chosen = [row["id"] for row in rows if can_be(asked.kind, row["state"] or "Pending", is_held=_is_held(row))]
    if not chosen:
        raise BackendRejected(
            f"Flow run {run['name'] or run['id']} has no task run with the tag {asked.tag!r} for that."
        )
    set_states(tx, "task_run", [StateUpdate(row_id, document) for row_id in chosen])
    if asked.kind == "release":
        _wake(tx, run, state_of(asked).message)


def _is_held(row: Any) -> bool:
    return row["state"] == "Paused" and HELD in decode_state(_text(row["serialized_state"])).context


def _set_limits(tx: Tx, run: RowMapping, asked: Directive) -> None:
    if run["state"] in lifecycle.FINISHED:
        raise BackendRejected(f"Flow run {run['id']} is {run['state']}: nothing in it is limited any more.")
    tx.update("flow_run", tables["flow_run"].c.id == run["id"], limits=limits_of(asked.value, run["limits"]))
    tx.say_again(run)


def _wake(tx: Tx, run: RowMapping, message: Any) -> None:
    """Let somebody go on with a flow run in which something waited that does so no more."""
    if parts.is_part(tx, run):
        parent = tx.row("task_run", run["parent_task_run_id"], "Invalid task run ID.")
        if parent["state"] == "Paused":
            start = tx.now.isoformat()
            set_states(tx, "task_run", [state_update(parent["id"], "Scheduled", str(message), start_time=start)])
            _wake(tx, tx.row("flow_run", parent["flow_run_id"], "Invalid flow run ID."), message)
        return
    now = tx.row("flow_run", run["id"], "Invalid flow run ID.")
    waits_for_nobody = now["owner"] is None and now["epoch"] and now["state"] in ("Running", "Scheduled")
    if waits_for_nobody or now["state"] == "Paused":
        set_one(tx, state_update(run["id"], "Scheduled", str(message), start_time=tx.now.isoformat()))


def _text(document: Any) -> str | bytes:
    return bytes(document) if isinstance(document, msgspec.Raw) else document


def _set_parameter(tx: Tx, run: RowMapping, asked: Directive) -> None:
    if run["state"] not in lifecycle.WAITING | lifecycle.PENDING or run["epoch"] or run["start_time"]:
        raise BackendRejected(f"Flow run {run['id']} has begun: its parameters have been read.")
    given = {asked.task or "": asked.value}
    check_given(tx.row("flow", run["flow_id"], "Invalid flow ID.")["parameters"], given)
    parameters = {**run["parameters"], **given}
    tx.update("flow_run", tables["flow_run"].c.id == run["id"], parameters=parameters)


def _task(tx: Tx, run: RowMapping, slug: str) -> RowMapping:
    task = tables["task"].c
    found = tx.first(select(task.id).where(task.flow_id == run["flow_id"], task.slug == slug))
    if found is None:
        raise BackendRejected(f"Flow run {run['name'] or run['id']} has no task {slug!r}.")
    return found


_EFFECTS: dict[str, Callable[[Tx, RowMapping, Directive], None]] = {
    "cancel": _cancel,
    "restart": _restart,
    "resume": _move,
    "reject": _move,
    "hold": _move,
    "release": _move,
    "set_limits": _set_limits,
    "set_parameter": _set_parameter,
    "skip": _move,
    "set_result": _move,
}
