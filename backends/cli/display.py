"""What the command line shows: runs as they go on, and runs as they were recorded."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ...engine import state as states
from ...engine.backend import FlowRunSummary, TaskRunHistory
from ...engine.flow import Flow
from ...engine.state import State
from ...engine.watch import RunEvent

__all__ = ["RunTable", "failures", "history", "outcome", "run_list"]

_MOST_FAILURES = 20


_COLOURS = {
    name: kind.color for name, kind in vars(states).items() if isinstance(kind, type) and issubclass(kind, State)
}


def coloured(name: str) -> Text:
    """Return the name of a state in its colour."""
    return Text(name, style=_COLOURS.get(name, ""))


class _Row:
    """One task of a run that goes on: itself, or all its mapped children."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.now: dict[int, State] = {}
        self.attempts = 0
        self.started: datetime.datetime | None = None
        self.ended: datetime.datetime | None = None
        self.width = 0

    def apply(self, event: RunEvent) -> None:
        self.now[event.map_index] = event.state
        if isinstance(event.state, states.Mapped):
            self.width = event.state.n_map_states
            return
        if type(event.state) is states.Running:
            self.started = self.started or event.timestamp
            self.attempts = max(self.attempts, event.run_count)
        if event.state.is_finished():
            self.ended = event.timestamp

    @property
    def active(self) -> bool:
        return any(not state.is_finished() for state in self.now.values())

    def shown_state(self) -> Text:
        children = Counter(type(state).__name__ for index, state in self.now.items() if index >= 0)
        if not children:
            return coloured(type(self.now[-1]).__name__) if -1 in self.now else Text("-", style="dim")
        counts = [Text.assemble(f"{count} ", coloured(name)) for name, count in children.items()]
        return Text.assemble(coloured("Mapped"), f" {self.width}: ", Text(", ").join(counts))

    def shown_duration(self) -> str:
        if self.started is None or self.ended is None:
            return ""
        return f"{(self.ended - self.started).total_seconds():.2f} s"


class RunTable:
    """A table of the tasks of a flow run, kept up to date by its events.

    Args:
        - flow: the flow
    """

    def __init__(self, flow: Flow) -> None:
        self._rows = {flow.slugs[task]: _Row(flow.slugs[task]) for task in flow.sorted_tasks()}
        self._title = flow.name
        self.final = False

    def apply(self, event: RunEvent) -> None:
        """Take a change of state into account."""
        if event.task_slug is not None:
            self._rows[event.task_slug].apply(event)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = list(self._rows.values())
        room = max(options.max_height - 6, 5)
        hidden = 0
        if not self.final and len(rows) > room:
            active = [row for row in rows if row.active]
            hidden, rows = len(rows) - len(active[:room]), active[:room]
        table = Table(title=escape(self._title), title_justify="left", caption=f"and {hidden} more" if hidden else None)
        table.add_column("task", overflow="fold")
        table.add_column("state", overflow="fold")
        table.add_column("attempts", justify="right")
        table.add_column("duration", justify="right")
        for row in rows:
            table.add_row(Text(row.name), row.shown_state(), str(row.attempts or ""), row.shown_duration())
        yield table


def failures(flow: Flow, state: State) -> Iterable[Text]:
    """Yield a line for each task run that failed by itself, not because of another one."""
    found = []
    ended = state.result if isinstance(state.result, dict) else {}
    for task, one in ended.items():
        children = enumerate(one.map_states) if isinstance(one, states.Mapped) else [(-1, one)]
        for index, each in children:
            if each is not None and each.is_failed() and not isinstance(each, states.TriggerFailed):
                found.append((_place(flow.slugs[task], index), each))
    for place, each in found[:_MOST_FAILURES]:
        yield Text.assemble((place, "bold"), " ", coloured(type(each).__name__), f"  {each.message}")
    if len(found) > _MOST_FAILURES:
        yield Text(f"and {len(found) - _MOST_FAILURES} more failed")


def outcome(flow: Flow, state: State) -> Text:
    """Return the line that says how a flow run ended."""
    return Text.assemble((flow.name, "bold"), " ", coloured(type(state).__name__), f"  {state.message}")


def run_list(runs: Iterable[FlowRunSummary]) -> Table:
    """Return a table of recorded flow runs."""
    table = Table("run", "flow", "state", "created", "duration", box=box.SIMPLE_HEAD)
    for run in runs:
        table.add_row(
            Text(run.name),
            Text(run.flow_name),
            coloured(run.state),
            f"{_local(run.created):%Y-%m-%d %H:%M:%S}",
            _duration(run.start_time, run.end_time),
        )
    return table


def history(run: FlowRunSummary, task_runs: Sequence[TaskRunHistory]) -> Iterable[Text]:
    """Yield the lines that tell a recorded flow run: each task run, mapped children too, with its states."""
    yield Text.assemble(
        (run.flow_name, "bold"), " ", (run.name, "bold"), " ", coloured(run.state), f"  {run.state_message or ''}"
    )
    yield Text(f"run {run.id}, created {_local(run.created):%Y-%m-%d %H:%M:%S %Z}", style="dim")
    for task_run in sorted(task_runs, key=_order(task_runs)):
        yield Text("")
        took = _duration(task_run.start_time, task_run.end_time)
        yield Text.assemble((_name(task_run), "bold"), f"  {took}" if took else "")
        for record in task_run.states:
            moment = f"{_local(record.timestamp):%H:%M:%S.%f}"[:-3]
            yield Text.assemble(f"  {moment} ", coloured(record.state), f"  {record.message or ''}")


def _order(task_runs: Sequence[TaskRunHistory]) -> Callable[[TaskRunHistory], tuple[datetime.datetime, str, int]]:
    """Order the task runs as their tasks began, the children of a mapped task together."""
    never = datetime.datetime.max.replace(tzinfo=datetime.UTC)
    first: dict[str, datetime.datetime] = {}
    for each in task_runs:
        first[each.task_slug] = min(first.get(each.task_slug, never), each.start_time or never)
    return lambda each: (first[each.task_slug], each.task_slug, each.map_index)


def _name(task_run: TaskRunHistory) -> str:
    place = _place(task_run.task_slug, task_run.map_index)
    return f"{place} {task_run.name}" if task_run.name else place


def _place(slug: str, map_index: int) -> str:
    return slug if map_index < 0 else f"{slug}[{map_index}]"


def _local(moment: datetime.datetime) -> datetime.datetime:
    return moment.astimezone()


def _duration(start: datetime.datetime | None, end: datetime.datetime | None) -> str:
    return "" if start is None or end is None else f"{(end - start).total_seconds():.2f} s"
