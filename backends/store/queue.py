"""Who runs what: agents and the queue they poll, and the reservations of workers.

An agent is shown what is ready, and two agents are shown the same. A worker takes what is ready: nobody
else is given it until the worker gives it back or its lease has run out.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, delete, exists, or_, select, true, update

from ...engine.errors import BackendRejected
from ...engine.lifecycle import WAITING
from .ids import is_id
from .records import Payload
from .tx import Tx, tables

__all__ = [
    "get_runs_in_queue",
    "register_agent",
    "release_flow_runs",
    "renew_flow_runs",
    "reserve_flow_runs",
]

_FETCHED = 75
_ANSWERED = 25
_LOOKED_AT = 1000


def register_agent(
    tx: Tx,
    *,
    type: str,
    name: str | None = None,
    labels: Sequence[str] = (),
    tenant_id: str | None = None,
    agent_config_id: str | None = None,
) -> Payload:
    """Return the agent of this tenant, name, type, client version and labels, made if it is new."""
    owner = tx.tenant_or_only(tenant_id)
    agent = tables["agent"].c
    wanted = sorted(labels)
    same = select(agent.id, agent.labels).where(
        agent.tenant_id == owner,
        agent.type == type,
        agent.name.is_not_distinct_from(name),
        agent.core_version.is_not_distinct_from(tx.caller.core_version),
    )
    for row in tx.all(same.order_by(agent.id)):
        if row["labels"] == wanted:
            return {"id": row["id"]}
    config = tx.row("agent_config", agent_config_id, "Invalid agent config ID.")["id"] if agent_config_id else None
    return {
        "id": tx.insert(
            "agent",
            tenant_id=owner,
            agent_config_id=config,
            core_version=tx.caller.core_version,
            name=name,
            type=type,
            labels=wanted,
            last_queried=tx.now,
        )
    }


def get_runs_in_queue(
    tx: Tx,
    *,
    tenant_id: str | None = None,
    before: datetime.datetime | None = None,
    labels: Sequence[str] = (),
) -> Payload:
    """Return the flow runs that are to be started, the longest waiting first.

    Args:
        - tenant_id: whose runs
        - before: what begins until then counts; now by default
        - labels: those of the agent; a run goes to an agent that has all its labels, and one without labels to an
          agent without any

    Returns:
        - Payload: ``flow_run_ids``, 25 at most
    """
    owner = tx.tenant_or_only(tenant_id)
    if is_id(tx.caller.agent_id):
        agent = tables["agent"].c
        tx.update("agent", agent.id == tx.caller.agent_id, agent.tenant_id == owner, last_queried=tx.now)
    run = tables["flow_run"].c
    ready = select(run.id, run.labels).where(run.tenant_id == owner, _ready(before or tx.now))
    rows = tx.all(ready.order_by(run.state_start_time.asc().nulls_last(), run.id).limit(_FETCHED))
    return {"flow_run_ids": [row["id"] for row in rows if _suits(row, labels)][:_ANSWERED]}


def _suits(row: RowMapping, labels: Sequence[str]) -> bool:
    wanted = set(row["labels"] or [])
    return wanted <= set(labels) if wanted else not labels


def _ready(before: datetime.datetime) -> ColumnElement[bool]:
    run, task_run = tables["flow_run"].c, tables["task_run"].c
    waiting = exists().where(
        task_run.flow_run_id == run.id,
        task_run.state.in_(sorted(WAITING)),
        task_run.state_start_time <= before,
    )
    return or_(
        and_(run.state.in_(sorted(WAITING)), run.state_start_time <= before),
        and_(run.state == "Running", waiting),
    )


def reserve_flow_runs(
    tx: Tx,
    *,
    worker_id: str,
    limit: int = 1,
    labels: Sequence[str] = (),
    flow_names: Sequence[str] | None = None,
    lease_seconds: float = 60.0,
) -> list[Payload]:
    """Take flow runs out of the queue for one worker.

    Ready is what agents are shown, and what another worker took and did not renew in time: its process is
    gone, and its runs can be resumed.

    Args:
        - worker_id: who takes them
        - limit: how many at most
        - labels: those of the worker, as for `get_runs_in_queue`
        - flow_names: the flows it can run; any by default
        - lease_seconds: how long they are its own unless it renews

    Returns:
        - list[Payload]: of each: ``flow_run_id``, ``flow_id``, ``flow_name``, ``name``, ``state``, ``expires``, and
          ``lapsed``: whether another worker had it and did not renew in time
    """
    expires = tx.now + datetime.timedelta(seconds=lease_seconds)
    if expires <= tx.now:
        raise BackendRejected("lease_seconds must be greater than zero.")
    _note_worker(tx, worker_id, {"labels": sorted(labels), "flow_names": flow_names, "room": limit})
    run, flow, reservation = tables["flow_run"].c, tables["flow"].c, tables["reservation"].c
    held = exists().where(reservation.flow_run_id == run.id, reservation.expires > tx.now)
    lost = exists().where(reservation.flow_run_id == run.id, reservation.expires <= tx.now)
    ready = or_(_ready(tx.now), and_(run.state.in_(["Submitted", "Running", "Cancelling"]), lost))
    found = (
        select(run.id, run.flow_id, flow.name.label("flow_name"), run.name, run.state, run.labels, lost.label("lapsed"))
        .join_from(tables["flow_run"], tables["flow"], flow.id == run.flow_id)
        .where(tx.mine("flow_run"), ready, ~held, true() if flow_names is None else flow.name.in_(flow_names))
        .order_by(run.state_start_time.asc().nulls_last(), run.id)
        .limit(_LOOKED_AT)
    )
    taken: list[Payload] = []
    while len(taken) < limit:
        suited = [row for row in tx.all(found) if _suits(row, labels)][: limit - len(taken)]
        if not suited:
            break
        # Of several processes that found the same run one wins, and the others look again.
        won = _claimed(tx, worker_id, [row["id"] for row in suited], expires)
        taken += [
            {
                "flow_run_id": row["id"],
                "flow_id": row["flow_id"],
                "flow_name": row["flow_name"],
                "name": row["name"],
                "state": row["state"],
                "lapsed": bool(row["lapsed"]),
                "expires": expires,
            }
            for row in suited
            if row["id"] in won
        ]
    return taken


def _note_worker(tx: Tx, worker_id: str, facts: dict[str, Any]) -> None:
    """Note that a worker was seen: it is what the API shows of it, and nothing depends on it."""
    owner = tx.tenant_or_none()
    if owner is not None:
        tx.put("worker", {"tenant_id": owner, "name": worker_id}, facts)


def _claimed(tx: Tx, worker_id: str, flow_run_ids: Sequence[str], expires: datetime.datetime) -> set[str]:
    """Insert reservations, take over those that have run out, and return the flow runs for which that went well."""
    reservation = tables["reservation"].c
    claim = tx.upsert("reservation").values(
        [{"flow_run_id": run_id, "worker_id": worker_id, "expires": expires} for run_id in flow_run_ids]
    )
    claim = claim.on_conflict_do_update(
        index_elements=["flow_run_id"],
        set_={"worker_id": worker_id, "expires": expires},
        where=reservation.expires <= tx.now,
    ).returning(reservation.flow_run_id)
    return set(tx.connection.execute(claim).scalars())


def renew_flow_runs(tx: Tx, *, worker_id: str, flow_run_ids: Sequence[str], lease_seconds: float = 60.0) -> Payload:
    """Prolong the leases of a worker.

    Returns:
        - Payload: ``flow_run_ids``: those that are still its own
    """
    reservation = tables["reservation"]
    ids = [run_id for run_id in flow_run_ids if is_id(run_id)]
    expires = tx.now + datetime.timedelta(seconds=lease_seconds)
    mine = (reservation.c.worker_id == worker_id, reservation.c.flow_run_id.in_(ids))
    tx.run(update(reservation).where(*mine).values(expires=expires))
    kept = set(tx.connection.execute(select(reservation.c.flow_run_id).where(*mine)).scalars())
    return {"flow_run_ids": [run_id for run_id in ids if run_id in kept]}


def release_flow_runs(tx: Tx, *, worker_id: str, flow_run_ids: Sequence[str]) -> Payload:
    """Give flow runs back: finished ones are done with, waiting ones can be taken by others."""
    reservation = tables["reservation"]
    ids = [run_id for run_id in flow_run_ids if is_id(run_id)]
    tx.run(delete(reservation).where(reservation.c.worker_id == worker_id, reservation.c.flow_run_id.in_(ids)))
    return {"success": True}
