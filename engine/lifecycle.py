"""What each state means for its run: one row per state, read by everything that decides by a state's name.

The store, the backend in memory, the services, the queue and the table in ``docs/semantics.md`` are made from these
rows, so a state means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

__all__ = [
    "ALIVE",
    "ATTENTION",
    "BEGINS",
    "CLAIMS",
    "ENDED",
    "FAILED",
    "FINISHED",
    "KEEPS_OWNER",
    "LIFECYCLE",
    "PENDING",
    "RUNNING",
    "SUCCESS",
    "UNFINISHED",
    "WAITING",
    "Row",
    "ends_task_runs",
    "may_follow",
    "table",
]

Phase = Literal["pending", "waits", "runs", "between", "ends"]
_KINDS = frozenset({"flow_run", "task_run"})
_FLOW_RUN = frozenset({"flow_run"})
_NONE: frozenset[str] = frozenset()


class Row(NamedTuple):
    """What a state means.

    Args:
        - state: the name of its class
        - phase: ``"pending"`` before its run begins, ``"waits"`` for a time, ``"runs"``, ``"between"`` two turns or
            processes, or ``"ends"`` the run
        - outcome: of a state that ends: ``"success"``, ``"failure"``, or an empty text
        - claims: whether one process takes the run for itself by it
        - alive: the kinds of runs that it is a sign of life of
        - sets_end: whether it sets the end time of the run
        - keeps: whether an unfinished task run in this state keeps its flow run from being scheduled again
    """

    state: str
    phase: Phase
    outcome: Literal["", "success", "failure"] = ""
    claims: bool = False
    alive: frozenset[str] = _NONE
    sets_end: bool = False
    keeps: bool = False

    @property
    def ends(self) -> bool:
        """Whether the run is over."""
        return self.phase == "ends"

    @property
    def waits(self) -> bool:
        """Whether the state has a start time, at which the run is to be taken up again."""
        return self.phase == "waits"

    @property
    def runs(self) -> bool:
        """Whether the run holds its places under the limits."""
        return self.phase == "runs"

    @property
    def followers(self) -> frozenset[str] | None:
        """The states that may follow; None means any."""
        if not self.ends:
            return None
        more = {"success": {"Cached"} - {self.state}, "failure": {"Retrying"}}.get(self.outcome, set())
        return _RESTART | more


_RESTART = frozenset({"Pending", "Scheduled", "Resume"})

LIFECYCLE: dict[str, Row] = {
    row.state: row
    for row in (
        Row("Pending", "pending"),
        Row("Scheduled", "waits", keeps=True),
        Row("Paused", "waits", keeps=True),
        Row("Resume", "waits", keeps=True),
        Row("Retrying", "waits", keeps=True),
        Row("Queued", "waits"),
        Row("Submitted", "between", claims=True, alive=_FLOW_RUN),
        Row("ClientFailed", "between"),
        Row("Running", "runs", claims=True, alive=_KINDS, keeps=True),
        Row("Cancelling", "runs", alive=_FLOW_RUN, keeps=True),
        # by its class a finished state; but the run is between two turns
        Row("Looped", "between", sets_end=True),
        Row("Finished", "ends"),
        Row("Success", "ends", "success", sets_end=True),
        Row("Mapped", "ends", "success"),
        Row("Cached", "ends", "success", sets_end=True),
        Row("Skipped", "ends", "success"),
        Row("Failed", "ends", "failure", sets_end=True),
        Row("TimedOut", "ends", "failure", sets_end=True),
        Row("TriggerFailed", "ends", "failure"),
        Row("ValidationFailed", "ends", "failure"),
        Row("Cancelled", "ends", sets_end=True),
    )
}


def _states(matches: Callable[[Row], bool]) -> frozenset[str]:
    return frozenset(row.state for row in LIFECYCLE.values() if matches(row))


FINISHED = _states(lambda row: row.ends)
UNFINISHED = _states(lambda row: not row.ends)
SUCCESS = _states(lambda row: row.outcome == "success")
FAILED = _states(lambda row: row.outcome == "failure")
ATTENTION = FAILED | {"Paused", "Retrying"}
"""States of a task run that a person may want to see: it failed, it waits for somebody, or it is tried again."""
RUNNING = _states(lambda row: row.runs)
WAITING = _states(lambda row: row.waits)
CLAIMS = _states(lambda row: row.claims)
ENDED = _states(lambda row: row.sets_end)
PENDING = _states(lambda row: row.keeps)
"""States of a task run that somebody has yet to go on with, so that its flow run is left alone."""

KEEPS_OWNER = _states(lambda row: not row.ends and (not row.waits or row.state == "Queued"))
"""States of a flow run that its owner goes on from; with any other it has given the run up."""

BEGINS = {"flow_run": frozenset({"Running"}), "task_run": frozenset({"Submitted", "Running"})}
"""States with which a run of a kind takes its places under the limits; a task run has them from when it is handed over
to where its body runs.
"""

ALIVE: dict[str, frozenset[str]] = {
    kind: frozenset(row.state for row in LIFECYCLE.values() if kind in row.alive) for kind in sorted(_KINDS)
}
"""States that are a sign of life, of a flow run and of a task run."""


def may_follow(current: str | None, new: str) -> bool:
    """Whether a run in state `current` may take the state `new`.

    A finished run is final, except for a retry of what failed, a cached copy of what succeeded, and an explicit
    restart.
    """
    allowed = None if current is None else LIFECYCLE[current].followers
    return allowed is None or new in allowed


def ends_task_runs(new: str, *, is_claimed: bool, is_vouched_for: bool) -> bool:
    """Whether the unfinished task runs of a flow run end with it when it takes a state.

    With Cancelled they do, whoever says it. Of a run that was claimed, nobody goes on with what any other end leaves.

    Args:
        - new: the state
        - is_claimed: whether the flow run had an owner
        - is_vouched_for: whether its owner says at which version it ends: a success then leaves nothing
    """
    row = LIFECYCLE[new]
    return new == "Cancelled" or (is_claimed and row.ends and not (is_vouched_for and row.outcome == "success"))


def table() -> Iterator[str]:
    """Yield the lines of the table of all states, for the page of semantics."""
    yield "| state | ends the run | waits for its time | holds a place | claims the run | sign of life of | " + (
        "sets the end time | may be followed by |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in LIFECYCLE.values():
        cells = [
            f"{row.state}",
            "yes" + (f": {row.outcome}" if row.outcome else "") if row.ends else "",
            *("yes" if holds else "" for holds in (row.waits, row.runs, row.claims)),
            ", ".join(kind.replace("_", " ") for kind in sorted(row.alive)),
            "yes" if row.sets_end else "",
            "any" if row.followers is None else ", ".join(sorted(row.followers)),
        ]
        yield "| " + " | ".join(cells) + " |"
