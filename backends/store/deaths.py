"""What is known of owners that have died, and the places under limits that these held."""

from __future__ import annotations

from sqlalchemy import delete, select, update

from ...engine import presence
from .tx import Tx, tables

__all__ = ["free_places", "note_deaths"]


def note_deaths(tx: Tx) -> None:
    """End the leases of the owners that are known to be dead, so that nobody waits for these to run out."""
    run = tables["flow_run"].c
    leased = select(run.owner).where(run.owner.is_not(None), run.lease_expires > tx.lease_now).distinct()
    dead = [owner for owner in tx.connection.execute(leased).scalars() if presence.is_gone(owner)]
    if dead:
        tx.run(update(tables["flow_run"]).where(run.owner.in_(dead)).values(lease_expires=tx.lease_now))


def free_places(tx: Tx) -> int:
    """Give back the places that the runs of dead owners hold under limits, and return how many.

    Whoever goes on with such a flow run takes them again.
    """
    note_deaths(tx)
    run, task_run = tables["flow_run"].c, tables["task_run"].c
    lapsed = select(run.id).where(run.owner.is_not(None), run.lease_expires <= tx.lease_now)
    inside = select(task_run.id).where(task_run.flow_run_id.in_(lapsed))
    freed = 0
    for name, runs in (("task_slot", inside), ("flow_slot", lapsed)):
        freed += tx.run(delete(tables[name]).where(tables[name].c.run_id.in_(runs)))
    return freed
