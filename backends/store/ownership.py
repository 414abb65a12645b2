"""Who runs a flow run: claimed by one owner under an epoch, for a lease that its heartbeats prolong.

A claim is one compare-and-set, which raises the epoch; `transitions` refuses what comes with an older one. Leases are
compared with the clock of the database, and each is as long as its owner said when it claimed the run.
"""

from __future__ import annotations

import datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, or_, update

from ...engine import lifecycle, presence
from ...engine.backend import LEASE_SECONDS, MAX_LAPSES
from ...engine.errors import BackendRejected, OwnershipLost
from . import parts
from .records import Payload
from .transitions import end_task_runs, set_states, state_update
from .tx import Tx, tables

__all__ = [
    "check",
    "claim_flow_run",
    "end_lapsed",
    "is_silent",
    "new",
    "release_flow_run",
    "renew",
    "silent",
    "take",
]


def silent(tx: Tx) -> ColumnElement[bool]:
    """The condition that nobody who lives has a flow run: the one that says so, with `is_silent`."""
    run = tables["flow_run"].c
    heard = tx.now - datetime.timedelta(seconds=LEASE_SECONDS)
    unclaimed = or_(run.state.not_in(sorted(lifecycle.RUNNING)), run.heartbeat.is_(None), run.heartbeat <= heard)
    return or_(
        and_(run.owner.is_(None), unclaimed),
        and_(run.owner.is_not(None), run.lease_expires <= tx.lease_now),
    )


def is_silent(tx: Tx, run: RowMapping) -> bool:
    """Whether nobody who lives has a flow run; of a client that claims nothing only its heartbeats are known."""
    if run["owner"] is not None:
        return bool(run["lease_expires"] <= tx.lease_now) or presence.is_gone(run["owner"])
    free_at = _free_at(run)
    return free_at is None or bool(free_at <= tx.now)


def _free_at(run: RowMapping) -> datetime.datetime | None:
    """When a flow run that somebody has can be claimed; None if nobody has it."""
    if run["owner"] is not None:
        expires: datetime.datetime = run["lease_expires"]
        return expires
    heard: datetime.datetime | None = run["heartbeat"] if run["state"] in lifecycle.RUNNING else None
    return None if heard is None else heard + datetime.timedelta(seconds=LEASE_SECONDS)


def claim_flow_run(
    tx: Tx,
    *,
    flow_run_id: str,
    owner: str,
    lease_seconds: float = LEASE_SECONDS,
    max_lapses: int = MAX_LAPSES,
    takeover: bool = False,
    gone: str | None = None,
) -> Payload:
    """Make a flow run an owner's, if nobody else who lives has it; see `Backend.claim_flow_run`.

    Returns:
        - Payload: ``claimed``, ``owner``, ``epoch``; and if somebody else has it, ``last_heard`` and ``free_at``
    """
    check(owner, lease_seconds)
    run = tx.row("flow_run", flow_run_id, "Invalid flow run ID", lock=True)
    if run["owner"] != owner:
        parts.check_whole(tx, run)
    if run["state"] in lifecycle.FINISHED:
        return {"claimed": True, "owner": owner, "epoch": run["epoch"]}
    if run["owner"] == owner:
        renew(tx, run["id"], run["epoch"])
        return {"claimed": True, "owner": owner, "epoch": run["epoch"]}
    is_dead = is_silent(tx, run) or (gone is not None and gone == run["owner"])
    if not is_dead and not takeover:
        free_at = _free_at(run)
        lease = datetime.timedelta(seconds=run["lease_seconds"] or LEASE_SECONDS)
        heard = None if free_at is None else free_at - lease
        return {
            "claimed": False,
            "owner": run["owner"],
            "epoch": run["epoch"],
            "last_heard": heard,
            "free_at": free_at,
        }
    return {"claimed": True, "owner": owner, "epoch": take(tx, run, owner, lease_seconds, max_lapses, is_dead)}


def new(tx: Tx, owner: str | None, lease_seconds: float) -> tuple[Any, ...]:
    """Return owner, epoch, and length and end of the lease of a new flow run, as the hot statements take them."""
    if owner is None:
        return None, 0, None, None
    check(owner, lease_seconds)
    return owner, 1, lease_seconds, tx.database.moment(_from_now(tx, lease_seconds))


def check(owner: str, lease_seconds: float) -> None:
    """Refuse a claim that cannot be."""
    if not owner:
        raise BackendRejected("a claim needs the name of an owner.")
    if not 0 < lease_seconds < 1e9:
        raise BackendRejected("lease_seconds must be greater than zero, and less than a thousand million.")


def take(tx: Tx, run: RowMapping, owner: str, lease_seconds: float, max_lapses: int, is_dead: bool) -> int:
    """Make a flow run, which is locked, an owner's, and return its new epoch; or end it if too many owners have died.

    Args:
        - run: its row
        - owner: who claims it
        - lease_seconds: for how long
        - max_lapses: how often it is begun by owners that die
        - is_dead: whether nobody who lives has it
    """
    lapsed = is_dead and run["owner"] is not None
    lapses = run["times_resurrected"] + lapsed
    epoch: int = run["epoch"] + 1
    columns = tables["flow_run"].c
    tx.update(
        "flow_run",
        columns.id == run["id"],
        owner=owner,
        epoch=epoch,
        lease_seconds=lease_seconds,
        lease_expires=_from_now(tx, lease_seconds),
        times_resurrected=lapses,
    )
    if lapsed and lapses >= max_lapses:
        end_lapsed(tx, run["id"], lapses)
    parts.adopt(tx, run["id"])
    return epoch


def end_lapsed(tx: Tx, flow_run_id: str, lapses: int) -> None:
    """Record that a flow run is not begun again, because its owners die."""
    text = (
        f"The flow run was begun {lapses} times, and each time the process that ran it ended before it did. It is not "
        "begun again: find out what ends the process, then restart the flow run."
    )
    failed = state_update(flow_run_id, "Failed", text)
    end_task_runs(tx, flow_run_id, failed.state)
    set_states(tx, "flow_run", [failed])


def _from_now(tx: Tx, seconds: float) -> datetime.datetime:
    return tx.lease_now + datetime.timedelta(seconds=seconds)


def renew(tx: Tx, flow_run_id: str, epoch: int) -> None:
    """Begin the lease of an owner anew.

    Raises:
        - OwnershipLost: if the flow run has another owner since
    """
    row = tx.row("flow_run", flow_run_id, "Invalid flow run ID", lock=True)
    if row["epoch"] != epoch:
        raise OwnershipLost(f"flow run {flow_run_id} has another owner since: its epoch is {row['epoch']}, not {epoch}")
    if row["owner"] is not None:
        expires = _from_now(tx, row["lease_seconds"] or LEASE_SECONDS)
        run = tables["flow_run"].c
        tx.run(update(tables["flow_run"]).where(run.id == row["id"]).values(lease_expires=expires, heartbeat=tx.now))


def release_flow_run(tx: Tx, *, flow_run_id: str, epoch: int) -> Payload:
    """Give a flow run up, unless it has another owner since. What was heard of its owner is over with that."""
    row = tx.row("flow_run", flow_run_id, "Invalid flow run ID")
    run = tables["flow_run"].c
    mine = (run.id == row["id"], run.epoch == epoch, run.owner.is_not(None))
    tx.update("flow_run", *mine, owner=None, lease_expires=None, heartbeat=None)
    return {"success": True}
