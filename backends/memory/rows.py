"""Flows and runs as the backend in memory keeps them, with the rules that concern one run alone."""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...engine import lifecycle
from ...engine.backend import (
    PROLONGED,
    FlowRunFilter,
    FlowRunSummary,
    ProjectInfo,
    StateRecord,
    TaskRunHistory,
    TaskRunInfoResult,
    alone_after,
    beside_after,
)
from ...engine.errors import BackendRejected, OwnershipLost, VersionLockMismatch
from ...engine.serialization import decode_state
from ...engine.state import Pending, Resume, Running, Scheduled, State
from .._line import Waiter

__all__ = ["Entry", "Flow", "FlowRun", "Run", "TaskRun", "in_turn"]


@dataclasses.dataclass(slots=True)
class Entry:
    """One recorded state: as it was sent, as it was recorded, and its line in the history."""

    sent: bytes
    document: bytes
    record: StateRecord


@dataclasses.dataclass(slots=True)
class Run:
    """A flow run or a task run, with every state it went through. Its version is their number."""

    id: str
    name: str | None
    created: datetime.datetime
    state: type[State] = Pending
    entries: list[Entry] = dataclasses.field(default_factory=list)
    start_time: datetime.datetime | None = None
    end_time: datetime.datetime | None = None

    @property
    def newest(self) -> Entry:
        """The newest state."""
        return self.entries[-1]

    @property
    def meaning(self) -> lifecycle.Row:
        """What the newest state means."""
        return lifecycle.LIFECYCLE[self.state.__name__]

    def repeated(self, version: int | None, sent: bytes) -> Entry | None:
        """Return what was recorded for this very message before, if it was."""
        if version is None:
            return self.newest if self.meaning.ends and self.newest.sent == sent else None
        if not 0 <= version < len(self.entries) or self.entries[version].sent != sent:
            return None
        return self.entries[version]

    def check_version(self, version: int | None) -> None:
        """Refuse a version that is not the newest."""
        if version not in (None, len(self.entries)):
            now = len(self.entries)
            standing = decode_state(self.newest.document)
            raise VersionLockMismatch(f"run {self.id} is at version {now}, and this state was for {version}", standing)

    def check_not_finished(self, state: State) -> None:
        """Refuse what would follow the end of this run, but for retries, cached copies and restarts."""
        if lifecycle.may_follow(self.state.__name__, type(state).__name__):
            return
        raise BackendRejected(f"State update failed for run ID {self.id}: it is finished ({self.state.__name__})")

    def record(self, state: State, sent: bytes, document: bytes, now: datetime.datetime) -> None:
        """Take a state."""
        self.state = type(state)
        message = None if state.message is None else str(state.message)
        record = StateRecord(len(self.entries) + 1, now, self.state.__name__, message, state.traceback)
        self.entries.append(Entry(sent, document, record))
        if self.state is Running and self.start_time is None:
            self.start_time = now
        if self.meaning.sets_end:
            self.end_time = now

    def is_due(self, now: datetime.datetime) -> bool:
        """Whether this run waits for a time that has come."""
        if not self.meaning.waits:
            return False
        return self.starts_at is not None and self.starts_at <= now

    @property
    def starts_at(self) -> datetime.datetime | None:
        """When its state says that it goes on."""
        found: datetime.datetime | None = getattr(decode_state(self.newest.document), "start_time", None)
        return found


@dataclasses.dataclass(slots=True)
class Flow:
    """One version of a flow."""

    id: str
    name: str
    version: int
    project: ProjectInfo
    version_group_id: str
    idempotency_key: str | None
    document: Mapping[str, Any]
    task_ids: dict[str, str]
    """Slug to id."""

    def downstream(self, slug: str) -> set[str]:
        """Return the slugs of all tasks that follow from a task."""
        found: set[str] = set()
        waiting = [slug]
        while waiting:
            upstream = waiting.pop()
            following = {
                edge["downstream_task"]["slug"]
                for edge in self.document.get("edges", ())
                if edge["upstream_task"]["slug"] == upstream
            }
            waiting += following - found
            found |= following
        return found


@dataclasses.dataclass(slots=True)
class FlowRun(Run):
    """A flow run with its task runs, by task id and map index."""

    flow: Flow = dataclasses.field(kw_only=True)
    parameters: dict[str, Any] = dataclasses.field(kw_only=True)
    context: dict[str, Any] = dataclasses.field(kw_only=True)
    scheduled_start_time: datetime.datetime = dataclasses.field(kw_only=True)
    labels: frozenset[str] = dataclasses.field(kw_only=True)
    task_runs: dict[tuple[str, int], TaskRun] = dataclasses.field(default_factory=dict)
    epoch: int = 0
    owner: str | None = None
    lease: datetime.timedelta = datetime.timedelta(0)
    lapses: int = 0
    priority: int = 0
    fairness_key: str | None = None
    heartbeat: datetime.datetime | None = None
    """When its owner was last heard of."""
    limits: dict[str, Any] | None = None
    parent: TaskRun | None = None
    """The task run that this flow run is."""
    attempt: int = 0
    """Which attempt of its parent it is; 0 if that has begun afresh since."""

    @property
    def root(self) -> FlowRun:
        """The flow run that this one is a part of in the end; itself if it is none."""
        return self if self.parent is None else self.parent.flow_run.root

    @property
    def is_part(self) -> bool:
        """Whether this flow run goes on with another one."""
        return self.parent is not None and not self.root.meaning.ends

    def free_at(self) -> datetime.datetime | None:
        """When this flow run can be claimed, if nothing is heard of whoever has it; None if nobody has it."""
        if self.owner is None and not self.meaning.runs:
            return None
        return None if self.heartbeat is None else self.heartbeat + self.lease

    def is_silent(self, now: datetime.datetime) -> bool:
        """Whether nobody who lives has this flow run."""
        free_at = self.free_at()
        return free_at is None or free_at <= now

    def fence(self, epoch: int | None) -> None:
        """Refuse what a former owner sends, also if it reads like what is recorded: that is its successor's."""
        if epoch not in (None, self.epoch):
            raise OwnershipLost(f"flow run {self.id} has another owner since: its epoch is {self.epoch}, not {epoch}")

    def check_unowned(self, epoch: int | None, now: datetime.datetime) -> None:
        """Refuse that a run begins without an epoch beside an owner that lives."""
        if epoch is None and self.owner is not None and not self.is_silent(now):
            raise VersionLockMismatch(f"State update failed: flow run {self.id} has an owner that is alive")

    def is_ready(self, now: datetime.datetime) -> bool:
        """Whether this flow run waits for somebody to run it, or has a task run that does."""
        if self.is_part or (self.owner is not None and not self.is_silent(now)):
            return False
        if self.is_due(now):
            return True
        if self.state is Running:
            return any(task_run.is_due(now) for task_run in self.task_runs.values())
        # one that was begun, and waits: somebody has resumed what it waits for
        resumed = [run for run in self.task_runs.values() if run.state is Resume] if self.epoch > 0 else []
        return self.meaning.waits and any(task_run.is_due(now) for task_run in resumed)

    def prolong(self, epoch: int | None, now: datetime.datetime) -> None:
        """Begin a lease anew of which little is left: what begins is a sign of life, too."""
        if epoch is None or self.owner is None or self.heartbeat is None:
            return
        if self.heartbeat + self.lease - now < self.lease * PROLONGED:
            self.heartbeat = now

    def may_be_begun_again(self, now: datetime.datetime, *, alone: bool) -> bool:
        """Whether this flow run, whose owner has died, has waited long enough: to be run alone, or beside others."""
        assert self.heartbeat is not None
        waited = (now - self.heartbeat - self.lease).total_seconds()
        lease = self.lease.total_seconds()
        return waited >= (alone_after(self.lapses, lease) if alone else beside_after(self.lapses))

    def is_left_behind(self, now: datetime.datetime) -> bool:
        """Whether its owner has died before the end, or has given it back, and nobody was heard of since."""
        if self.meaning.state not in lifecycle.KEEPS_OWNER or self.meaning.waits or self.is_part:
            return False
        return self.is_silent(now) if self.owner is not None else self.epoch > 0 and self.heartbeat is None

    def summary(self) -> FlowRunSummary:
        """Return this flow run as a line of a list."""
        return FlowRunSummary(
            id=self.id,
            name=self.name or "",
            flow_name=self.flow.name,
            state=self.newest.record.state,
            state_message=self.newest.record.message,
            created=self.created,
            start_time=self.start_time,
            end_time=self.end_time,
            scheduled_start_time=self.scheduled_start_time,
            parent_task_run_id=None if self.parent is None else self.parent.id,
        )

    def matches(self, only: FlowRunFilter) -> bool:
        """Whether a filter lets this flow run through."""
        names = (self.name or "", self.flow.name)
        return (
            (only.flow is None or self.flow.name == only.flow)
            and (not only.states or self.state.__name__ in only.states)
            and (only.since is None or self.created >= only.since)
            and (only.until is None or self.created < only.until)
            and (only.search is None or any(only.search.casefold() in name.casefold() for name in names))
            and (only.due_before is None or self.state is not Scheduled or self.scheduled_start_time < only.due_before)
            and (only.parts or self.parent is None)
            and (only.part_of is None or (self.parent is not None and self.parent.flow_run.id == only.part_of))
        )


@dataclasses.dataclass(slots=True)
class TaskRun(Run):
    """A task run."""

    flow_run: FlowRun = dataclasses.field(kw_only=True)
    task_id: str = dataclasses.field(kw_only=True)
    task_slug: str = dataclasses.field(kw_only=True)
    cache_key: str | None = dataclasses.field(kw_only=True)
    map_index: int = dataclasses.field(kw_only=True)

    @property
    def holds_places(self) -> bool:
        """Whether it holds its places under the limits."""
        return self.meaning.runs or self.meaning.state in lifecycle.BEGINS["task_run"]

    def info(self) -> TaskRunInfoResult:
        """Return what a runner is told of this task run."""
        state = decode_state(self.newest.document)
        return TaskRunInfoResult(self.id, self.task_id, self.task_slug, len(self.entries), state, self.map_index)

    def history(self) -> TaskRunHistory:
        """Return this task run with every state it went through."""
        return TaskRunHistory(
            id=self.id,
            task_slug=self.task_slug,
            map_index=self.map_index,
            name=self.name,
            states=[entry.record for entry in self.entries],
            start_time=self.start_time,
            end_time=self.end_time,
        )


class Waiting(NamedTuple):
    """A task run that is held back: who waits, and by which limits, kind and tag."""

    who: Waiter
    limits: set[tuple[str, str]]


def in_turn(runs: Iterable[FlowRun]) -> list[FlowRun]:
    """Return flow runs as they are handed out: by priority, and of one priority the keys in turns."""
    turns: Counter[tuple[int, str | None]] = Counter()
    ranked: list[tuple[int, int, int, FlowRun]] = []
    for place, run in enumerate(runs):
        key = run.priority, run.fairness_key
        ranked.append((-run.priority, turns[key], place, run))
        turns[key] += 1
    return [run for *_, run in sorted(ranked, key=lambda each: each[:3])]
