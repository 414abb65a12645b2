"""Who runs what: agents and the queue they poll, and the reservations of workers.

An agent is shown what is ready, and two agents are shown the same. A worker claims what is ready: nobody
else is given it as long as the worker has it and lives.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, exists, func, or_, select, true, update

from ...engine.backend import LEASE_SECONDS, MAX_LAPSES, alone_after, beside_after
from ...engine.lifecycle import KEEPS_OWNER, UNFINISHED, WAITING
from . import late, ownership, parts, reads
from .deaths import note_deaths
from .ids import is_id
from .records import Payload
from .tx import Tx, tables

__all__ = [
    "get_runs_in_queue",
    "next_ready",
    "register_agent",
    "reserve_flow_runs",
]

_FETCHED = 75
_ANSWERED = 25
_LOOKED_AT = 1000
_LOOKED_AT_FIRST = 10
"""As many times what is wanted: as a rule most of what is ready suits whoever asks."""

_TASK_RUNS = 1_000
"""With so many task runs in all, flow runs come along with what their runners need to begin."""

ALIVE = datetime.timedelta(seconds=200)
"""A worker that was not seen for so long is taken to be gone; an idle one that is told of flow runs looks rarely."""

AGENTLESS = "agentless-"
"""How a label begins that keeps agents from a flow run, and no worker."""


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
    owner = tx.tenant_or_default(tenant_id)
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
    """Return the flow runs that are to be started, the most urgent and of them the longest waiting first.

    Args:
        - tenant_id: whose runs
        - before: what begins until then counts; now by default
        - labels: those of the agent; a run goes to an agent that has all its labels, and one without labels to an
          agent without any

    Returns:
        - Payload: ``flow_run_ids``, 25 at most
    """
    owner = tx.tenant_or_default(tenant_id)
    if is_id(tx.caller.agent_id):
        agent = tables["agent"].c
        tx.update("agent", agent.id == tx.caller.agent_id, agent.tenant_id == owner, last_queried=tx.now)
    late.skip_late_runs(tx)
    run = tables["flow_run"].c
    ready = select(run.id, run.labels).where(run.tenant_id == owner, _ready(tx, before or tx.now))
    rows = tx.all(ready.order_by(*_order(tx)).limit(_FETCHED))
    return {"flow_run_ids": [row["id"] for row in rows if suits(row, labels)][:_ANSWERED]}


def knows(worker: Any, flow_id: str, flow_name: str) -> bool:
    """Whether a worker has a flow, in its version."""
    named = worker["flow_names"] is None or flow_name in worker["flow_names"]
    return named and flow_id not in (worker["not_flow_ids"] or ())


def suits(row: Any, labels: Sequence[str], *, is_worker: bool = False) -> bool:
    """Whether a flow run goes to an agent, or a worker, with these labels."""
    wanted = {label for label in row["labels"] or [] if not (is_worker and label.startswith(AGENTLESS))}
    return wanted <= set(labels) if wanted else not labels


def _ready(tx: Tx, before: datetime.datetime) -> ColumnElement[bool]:
    run, task_run = tables["flow_run"].c, tables["task_run"].c
    due = exists().where(task_run.flow_run_id == run.id, task_run.state_start_time <= before)
    ready = or_(
        and_(run.state.in_(sorted(WAITING)), run.state_start_time <= before),
        and_(run.state == "Running", due.where(task_run.state.in_(sorted(WAITING)))),
        # one that was begun, and waits: somebody has resumed what it waits for
        and_(run.state.in_(sorted(WAITING)), run.epoch > 0, due.where(task_run.state == "Resume")),
    )
    return and_(ready, parts.whole(), or_(run.owner.is_(None), run.lease_expires <= tx.lease_now))


def _order(tx: Tx) -> list[ColumnElement[Any]]:
    """Return in which order flow runs are handed out.

    Of one priority the keys take turns, and all that has none counts as one key; of one key the longest waiting go
    first.
    """
    run = tables["flow_run"].c
    waited = [run.state_start_time.asc().nulls_last(), run.id.asc()]
    keyed = exists().where(run.state.in_(sorted(UNFINISHED)), run.fairness_key.is_not(None))
    if not tx.scalar(select(keyed)):
        return [run.priority.desc(), *waited]
    alike = [run.priority, run.fairness_key, run.labels]  # what others may take, too, is no turn of theirs
    turn = func.row_number().over(partition_by=alike, order_by=waited)
    return [run.priority.desc(), turn, *waited]


def next_ready(tx: Tx) -> float | None:
    """Return in how many seconds a flow run may be ready without anybody doing anything; see `Backend.next_ready`."""
    run, task_run = tables["flow_run"].c, tables["task_run"].c
    # an owner may die at any moment, and who answers what a flow run waits for tells only that
    unfinished = and_(tx.mine("flow_run"), run.state.in_(sorted(UNFINISHED)))
    begun = exists().where(unfinished, or_(run.owner.is_not(None), run.epoch > 0, run.state.not_in(sorted(WAITING))))
    waits = select(func.min(run.state_start_time)).where(
        tx.mine("flow_run"), run.state.in_(sorted(WAITING)), run.state_start_time > tx.now
    )
    part_waits = select(func.min(task_run.state_start_time)).where(
        tx.mine("task_run"), task_run.state.in_(sorted(WAITING)), task_run.state_start_time > tx.now
    )
    times = select(
        begun.label("begun"), waits.scalar_subquery().label("run"), part_waits.scalar_subquery().label("part")
    )
    found = tx.all(times)[0]
    if found["begun"]:
        return 0.0
    moments = [found[name] for name in ("run", "part") if found[name] is not None]
    return min(((moment - tx.now).total_seconds() for moment in moments), default=None)


def reserve_flow_runs(
    tx: Tx,
    *,
    worker_id: str,
    limit: int = 1,
    labels: Sequence[str] = (),
    flow_names: Sequence[str] | None = None,
    lease_seconds: float = LEASE_SECONDS,
    max_lapses: int = MAX_LAPSES,
    begun: bool = False,
    not_flow_ids: Sequence[str] = (),
    alone: bool = True,
) -> list[Payload]:
    """Claim flow runs that are ready for one worker; see `Backend.reserve_flow_runs`.

    Ready is what agents are shown, and what an owner left behind that died, did not renew its lease, or gave it back
    because it could not go on.

    Args:
        - worker_id: who takes them
        - limit: how many at most
        - labels: those of the worker, as for `get_runs_in_queue`; what keeps agents away does not keep workers
        - flow_names: the flows it can run; any by default
        - lease_seconds: for how long they are its own without a heartbeat
        - max_lapses: how often a flow run is begun by owners that die
        - begun: whether to take only those that had an owner before
        - not_flow_ids: flows of these names that it cannot run, all the same
        - alone: whether it can run a flow run that must have no other beside it

    Returns:
        - list[Payload]: of each: ``flow_run_id``, ``flow_id``, ``flow_name``, ``name``, ``state``, ``expires``,
          ``epoch``, ``lapsed``: whether somebody else had it, and died or did not renew in time, ``alone``: for how
          many seconds nothing is to be run beside it, and ``flow_run``: as `get_flow_run_info` returns it, or None
    """
    ownership.check(worker_id, lease_seconds)
    facts = {"labels": sorted(labels), "flow_names": flow_names, "room": limit, "not_flow_ids": list(not_flow_ids)}
    _note_worker(tx, worker_id, facts)
    note_deaths(tx)
    late.skip_late_runs(tx)
    run, flow = tables["flow_run"].c, tables["flow"].c
    lapsed = and_(run.owner.is_not(None), run.lease_expires <= tx.lease_now)
    given_back = and_(run.owner.is_(None), run.epoch > 0, run.heartbeat.is_(None))  # and nobody was heard of since
    lost = and_(run.state.in_(_LEFT_BEHIND), or_(lapsed, given_back), parts.whole())
    found = (
        select(
            run.id,
            run.flow_id,
            flow.name.label("flow_name"),
            run.name,
            run.state,
            run.labels,
            run.owner,
            run.times_resurrected,
            run.lease_expires,
            run.lease_seconds,
        )
        .join_from(tables["flow_run"], tables["flow"], flow.id == run.flow_id)
        .where(
            tx.mine("flow_run"),
            run.state.in_(sorted(UNFINISHED)),
            or_(_ready(tx, tx.now), lost),
            or_(run.owner.is_(None), run.owner != worker_id),
            true() if flow_names is None else flow.name.in_(flow_names),
            run.flow_id.not_in([flow_id for flow_id in not_flow_ids if is_id(flow_id)]),
            run.epoch > 0 if begun else true(),
        )
        .order_by(*_order(tx))
    )
    taken: list[Payload] = []
    looked_at = min(limit * _LOOKED_AT_FIRST, _LOOKED_AT)
    while len(taken) < limit and not any(each["alone"] for each in taken):
        rows = tx.all(found.limit(looked_at))
        suited = _together(tx, [row for row in rows if suits(row, labels, is_worker=True)], alone=alone)
        suited = suited[: limit - len(taken)]
        is_all = len(rows) < looked_at
        if not suited and (is_all or looked_at == _LOOKED_AT):
            break
        if not suited:
            looked_at = _LOOKED_AT
            continue
        # Of several processes that found the same run one wins, and the others look again.
        epochs = _claimed(tx, [row["id"] for row in suited if row["owner"] is None], worker_id, lease_seconds)
        for row in suited:
            if row["owner"] is not None:
                epochs |= _claimed_after(tx, row["id"], worker_id, lease_seconds, max_lapses)
        taken += [
            {
                "flow_run_id": row["id"],
                "flow_id": row["flow_id"],
                "flow_name": row["flow_name"],
                "name": row["name"],
                "state": row["state"],
                "lapsed": _lapsed(row),
                "alone": beside_after(row["times_resurrected"]) if alone and _lapsed(row) else 0.0,
                "epoch": epochs[row["id"]],
                "expires": tx.lease_now + datetime.timedelta(seconds=lease_seconds),
            }
            for row in suited
            if row["id"] in epochs
        ]
        if is_all and len(epochs) == len(suited):
            break
    infos = reads.get_flow_run_infos(tx, flow_run_ids=[each["flow_run_id"] for each in taken], at_most=_TASK_RUNS)
    return [{**each, "flow_run": info} for each, info in zip_longest(taken, infos)]


def _lapsed(row: RowMapping) -> bool:
    """Whether the owner of a flow run has died, so that it may be what that one died of."""
    return row["owner"] is not None


def _together(tx: Tx, rows: Sequence[RowMapping], *, alone: bool) -> list[RowMapping]:
    """Return what may be begun in one process: what may have killed one, by itself and after a while."""
    waited = {row["id"]: (tx.lease_now - row["lease_expires"]).total_seconds() for row in rows if _lapsed(row)}
    for row in rows if alone else ():
        lease = row["lease_seconds"] or LEASE_SECONDS
        if _lapsed(row) and waited[row["id"]] >= alone_after(row["times_resurrected"], lease):
            return [row]
    return [row for row in rows if not _lapsed(row) or waited[row["id"]] >= beside_after(row["times_resurrected"])]


def _note_worker(tx: Tx, worker_id: str, facts: dict[str, Any]) -> None:
    """Note that a worker was seen: it is what the API shows of it, and nothing depends on it."""
    owner = tx.tenant_or_none()
    if owner is not None:
        tx.put("worker", {"tenant_id": owner, "name": worker_id}, facts)


_LEFT_BEHIND = sorted(KEEPS_OWNER - WAITING)


def _claimed(tx: Tx, flow_run_ids: Sequence[str], worker_id: str, lease_seconds: float) -> dict[str, int]:
    """Claim flow runs that nobody has, and return the epochs of those for which that went well."""
    run = tables["flow_run"].c
    claim = (
        update(tables["flow_run"])
        .where(run.id.in_(flow_run_ids), run.owner.is_(None), run.state.in_(sorted(UNFINISHED)))
        .values(
            owner=worker_id,
            epoch=run.epoch + 1,
            lease_seconds=lease_seconds,
            lease_expires=tx.lease_now + datetime.timedelta(seconds=lease_seconds),
        )
        .returning(run.id, run.epoch)
    )
    epochs = {row[0]: row[1] for row in tx.connection.execute(claim)} if flow_run_ids else {}
    for flow_run_id, epoch in epochs.items():
        if epoch > 1:
            parts.adopt(tx, flow_run_id)
    return epochs


def _claimed_after(tx: Tx, flow_run_id: str, worker_id: str, lease_seconds: float, max_lapses: int) -> dict[str, int]:
    """Claim a flow run whose owner is gone, unless somebody has been quicker, or it is over with that."""
    row = tx.row("flow_run", flow_run_id, "Invalid flow run ID", lock=True)
    if row["owner"] is None or not ownership.is_silent(tx, row):
        return {}
    epoch = ownership.take(tx, row, worker_id, lease_seconds, max_lapses, is_dead=True)
    is_over = tx.row("flow_run", flow_run_id, "Invalid flow run ID")["owner"] is None
    return {} if is_over else {flow_run_id: epoch}
