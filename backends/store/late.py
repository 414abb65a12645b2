"""What becomes of planned runs whose time came while nobody was there to run them."""

from __future__ import annotations

import datetime
import math

from sqlalchemy import func, select

from ...engine.errors import FlowloopError
from .transitions import end_task_runs, set_states, state_update
from .tx import Tx, tables

__all__ = ["check_policy", "skip_late_runs"]

LATE_AFTER = 60.0
"""After how many seconds a planned run is late that nobody has begun."""

_AT_ONCE = 1000


def check_policy(policy: str) -> str:
    """Return a policy for late runs.

    Raises:
        - FlowloopError: if it is none
    """
    if policy in ("all", "latest", "none") or _within(policy) is not None:
        return policy
    raise FlowloopError(
        f"late runs are run: all, latest, none, or those within so many seconds (within:3600), not {policy!r}"
    )


def _within(policy: str) -> float | None:
    kind, _, seconds = policy.partition(":")
    try:
        late = float(seconds) if kind == "within" else math.nan
    except ValueError:
        return None
    return max(late, LATE_AFTER) if math.isfinite(late) else None


def skip_late_runs(tx: Tx) -> int:
    """End the planned runs that are too late for the policy, and return how many.

    Only what a schedule has planned is late, and only as long as it has not begun. Of ``latest`` the newest run of each
    flow that is due is kept.
    """
    policy = tx.late_runs
    if policy == "all":
        return 0
    run = tables["flow_run"].c
    waits = (run.auto_scheduled.is_(True), run.state == "Scheduled", run.epoch == 0, run.owner.is_(None))
    since = tx.now - datetime.timedelta(seconds=_within(policy) or LATE_AFTER)
    late = select(run.id, run.flow_id, run.scheduled_start_time).where(*waits, run.state_start_time <= since)
    rows = tx.all(late.order_by(run.scheduled_start_time, run.id).limit(_AT_ONCE))
    if rows and policy == "latest":
        due = select(run.flow_id, func.max(run.scheduled_start_time)).where(*waits, run.state_start_time <= tx.now)
        newest = {row[0]: row[1] for row in tx.connection.execute(due.group_by(run.flow_id))}
        rows = [row for row in rows if row["scheduled_start_time"] < newest[row["flow_id"]]]
    text = f"It was due while nobody was there to run it, and late runs are skipped (FLOWLOOP_LATE_RUNS={policy})."
    for row in rows:
        skipped = state_update(row["id"], "Skipped", text)
        set_states(tx, "flow_run", [skipped])
        end_task_runs(tx, row["id"], skipped.state)
    return len(rows)
