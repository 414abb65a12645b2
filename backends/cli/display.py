"""What the command line shows: runs as they go on, and runs as they were recorded."""

from __future__ import annotations

import datetime
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import msgspec
from rich import box
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...engine import lifecycle
from ...engine import state as states
from ...engine.backend import ArtifactRecord, FlowRunSummary, FlowSummary, LogRecord, TaskRunHistory
from ...engine.flow import Flow
from ...engine.state import State
from ...engine.watch import RunEvent

__all__ = [
    "RunTable",
    "artifact",
    "change",
    "failures",
    "flow_list",
    "history",
    "log_line",
    "outcome",
    "place",
    "progress_table",
    "run_list",
    "safe",
    "summary_of",
]

_MOST_FAILURES = 20
_MOST_ROWS = 50
_BAR_WIDTH = 20
_NAMES_ITS_TASK = ("flowloop.failures",)
"""Loggers whose lines begin with the task that they are of."""

_COLOURS = {
    name: kind.color for name, kind in vars(states).items() if isinstance(kind, type) and issubclass(kind, State)
}


def safe(text: str, *, lines: bool = False) -> str:
    """Return a text that does nothing to a terminal but show: what would control it is written as an escape.

    Args:
        - text: the text
        - lines: whether it may have several lines
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(one if one in kept or not _controls(one) else repr(one)[1:-1] for one in text)


def _controls(one: str) -> bool:
    # line and paragraph separators, and what turns the direction of writing, too
    return unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def coloured(name: str) -> Text:
    """Return the name of a state in its colour."""
    return Text(safe(name), style=_COLOURS.get(name, ""))


def _bold(text: str) -> tuple[str, str]:
    return safe(text), "bold"


# -- a run that goes on --------------------------------------------------------------------------------


class _Row:
    """One task of a run that goes on: itself, or all its mapped children, and all its runs inside mapped flows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.now: dict[tuple[int, ...], State] = {}
        self.attempts = 0
        self.started: datetime.datetime | None = None
        self.ended: datetime.datetime | None = None
        self.maps: dict[tuple[int, ...], states.Mapped] = {}

    def apply(self, event: RunEvent) -> None:
        around = tuple(index for _, index in event.parents)
        if isinstance(event.state, states.Mapped):
            self.now.pop((*around, -1), None)
            self.maps[around] = event.state
            return
        self.now[*around, event.map_index] = event.state
        if type(event.state) is states.Running:
            self.started = self.started or event.timestamp
            self.attempts = max(self.attempts, event.run_count)
        if event.state.is_finished():
            self.ended = event.timestamp

    @property
    def active(self) -> bool:
        return any(not state.is_finished() for state in self.now.values())

    @property
    def width(self) -> int:
        return sum(state.n_map_states for state in self.maps.values())

    @property
    def total(self) -> int:
        single = sum(place[-1] < 0 for place in self.now)
        return max(self.width + single, 1)

    @property
    def finished(self) -> int:
        return sum(state.is_finished() for state in self.now.values())

    def shown_state(self) -> Text:
        if not self.now and not self.maps:
            return Text("-", style="dim")
        counted = Counter(type(state).__name__ for state in self.now.values())
        if len(self.now) == 1 and not self.maps:
            return coloured(*counted)
        counts = Text(", ").join(Text.assemble(f"{count} ", coloured(name)) for name, count in counted.items())
        return Text.assemble(coloured("Mapped"), f" {self.width}: ", counts) if self.maps else counts

    def shown_duration(self, now: datetime.datetime) -> str:
        if self.started is None:
            return ""
        over = self.ended is not None and not self.active
        end = self.ended if over and self.ended is not None else now
        return f"{(end - self.started).total_seconds():.2f} s" if over else _clock(end - self.started)


class RunTable:
    """A table of the tasks of a flow run, kept up to date by its events.

    Args:
        - flow: the flow
        - now: tells the time, for what has not ended
    """

    def __init__(self, flow: Flow, now: Callable[[], datetime.datetime] | None = None) -> None:
        self._rows: dict[tuple[str, ...], _Row] = {
            (flow.slugs[task],): _Row(flow.slugs[task]) for task in flow.sorted_tasks()
        }
        self._title = flow.name
        self._now = now or _utc_now
        self._began = self._now()
        self.final = False

    def apply(self, event: RunEvent) -> None:
        """Take a change of state into account."""
        if event.task_slug is None:
            return
        slugs = (*(slug for slug, _ in event.parents), event.task_slug)
        if slugs not in self._rows:  # of a flow that runs as a task: below that one
            around = max(at for at, known in enumerate(self._rows) if known[: len(slugs) - 1] == slugs[:-1])
            rows = list(self._rows.items())
            rows.insert(around + 1, (slugs, _Row(f"{'  ' * len(event.parents)}{event.task_slug}")))
            self._rows = dict(rows)
        self._rows[slugs].apply(event)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = list(self._rows.values())
        room = max(options.max_height - 6, 5)
        hidden = 0
        if not self.final and len(rows) > room:
            active = [row for row in rows if row.active]
            hidden, rows = len(rows) - len(active[:room]), active[:room]
        more = f"and {hidden} more\n" if hidden else ""
        table = Table(title=Text(safe(self._title)), title_justify="left", caption=f"{more}{self._total()}")
        table.add_column("task", overflow="fold")
        table.add_column("state", overflow="fold")
        if not self.final:
            table.add_column("done", min_width=_BAR_WIDTH)
        table.add_column("attempts", justify="right")
        table.add_column("duration", justify="right")
        now = self._now()
        for row in rows:
            bar = [] if self.final else [ProgressBar(row.total, row.finished, width=_BAR_WIDTH)]
            duration = row.shown_duration(now)
            table.add_row(Text(safe(row.name)), row.shown_state(), *bar, str(row.attempts or ""), duration)
        yield table

    def _total(self) -> str:
        rows = self._rows.values()
        total, finished = sum(row.total for row in rows), sum(row.finished for row in rows)
        failed = sum(state.is_failed() for row in rows for state in row.now.values())
        took = self._now() - self._began
        parts = [f"{finished} of {total} task runs", *([f"{failed} failed"] if failed else []), _clock(took)]
        if 0 < finished < total and not self.final:
            parts.append(f"about {_clock(took / finished * (total - finished))} left")
        return ", ".join(parts)


def change(event: RunEvent) -> str:
    """Return the line that tells a change of state where no table can be shown."""
    name = "flow run" if event.task_slug is None else place(event.task_slug, event.map_index)
    name = " > ".join([*(place(*parent) for parent in event.parents), name])
    attempt = f" (attempt {event.run_count})" if event.run_count > 1 else ""
    reason = f": {event.state.message}" if event.state.is_failed() and event.state.message else ""
    return safe(f"{_local(event.timestamp):%H:%M:%S} {name} {type(event.state).__name__}{attempt}{reason}")


def failures(flow: Flow, state: State, *, tracebacks: bool) -> Iterable[Text]:
    """Yield a line for each task run that failed by itself, not because of another one.

    Args:
        - flow: the flow
        - state: the state of the flow run
        - tracebacks: whether they are told, too
    """
    found = []
    ended = state.result if isinstance(state.result, dict) else {}
    for task, one in ended.items():
        children = enumerate(one.map_states) if isinstance(one, states.Mapped) else [(-1, one)]
        for index, each in children:
            if each is not None and each.is_failed() and not isinstance(each, states.TriggerFailed):
                found.append((place(flow.slugs[task], index), each))
    for name, each in found[:_MOST_FAILURES]:
        yield Text.assemble(_bold(name), " ", coloured(type(each).__name__), f"  {safe(str(each.message))}")
        if tracebacks and each.traceback:
            yield _indented(each.traceback)
    if len(found) > _MOST_FAILURES:
        yield Text(f"and {len(found) - _MOST_FAILURES} more failed")


def outcome(flow: Flow, state: State) -> Text:
    """Return the line that says how a flow run ended."""
    return Text.assemble(_bold(flow.name), " ", coloured(type(state).__name__), f"  {safe(str(state.message))}")


# -- lists ---------------------------------------------------------------------------------------------


def run_list(runs: Sequence[FlowRunSummary]) -> Table:
    """Return a table of recorded flow runs."""
    planned = any(run.state == "Scheduled" for run in runs)
    table = Table("run", "flow", "state", "created", *(["begins"] if planned else []), "duration", box=box.SIMPLE_HEAD)
    for run in runs:
        begins = _moment(run.scheduled_start_time) if run.state == "Scheduled" else ""
        table.add_row(
            Text(safe(run.name)),
            Text(safe(run.flow_name)),
            coloured(run.state),
            _moment(run.created),
            *([begins] if planned else []),
            _duration(run.start_time, run.end_time),
        )
    return table


def flow_list(flows: Iterable[FlowSummary]) -> Table:
    """Return a table of registered flows."""
    table = Table("flow", "version", "project", "schedule", "next run", box=box.SIMPLE_HEAD)
    for flow in flows:
        schedule = ("on" if flow.schedule_active else "off") if flow.has_schedule else ""
        names = Text(safe(flow.name)), str(flow.version), Text(safe(flow.project))
        table.add_row(*names, schedule, _moment(flow.next_run))
    return table


def log_line(line: LogRecord, task: str | None) -> Text:
    """Return one line of a log.

    Args:
        - line: the line
        - task: the task run that it is of, as people call it
    """
    style = "red" if line.level in ("ERROR", "CRITICAL") else "yellow" if line.level == "WARNING" else ""
    moment = f"{_local(line.timestamp):%Y-%m-%d %H:%M:%S}"
    message = line.message if task is None or line.name in _NAMES_ITS_TASK else f"{task}: {line.message}"
    return Text.assemble(f"{moment} ", (f"{safe(line.level):<7}", style), f" {safe(message, lines=True)}")


# -- one recorded run ----------------------------------------------------------------------------------


def _heading(run: FlowRunSummary) -> Iterable[Text]:
    message = f"  {safe(run.state_message or '')}"
    yield Text.assemble(_bold(run.flow_name), " ", _bold(run.name), " ", coloured(run.state), message)
    yield Text(f"run {run.id}, created {_local(run.created):%Y-%m-%d %H:%M:%S %Z}", style="dim")
    if run.parent_task_run_id is not None:
        yield Text(f"part of another flow run, as its task run {run.parent_task_run_id}", style="dim")


def history(
    run: FlowRunSummary,
    task_runs: Sequence[TaskRunHistory],
    made: Sequence[ArtifactRecord] = (),
    parts: Sequence[FlowRunSummary] = (),
) -> Iterable[RenderableType]:
    """Yield what tells a recorded flow run: each task run, mapped children too.

    Args:
        - run: the flow run
        - task_runs: its task runs, told with their states
        - made: their artifacts
        - parts: the flow runs that they are, where a flow runs as a task
    """
    yield from _heading(run)
    counts = _counts(task_runs)
    for task_run in sorted(task_runs, key=_order(task_runs)):
        yield Text("")
        yield from _told(task_run)
        of_task = counts[task_run.task_slug]
        if _newest(task_run) == "Mapped" and "Mapped" not in of_task:
            yield Text.assemble("  its children  ", _counted(of_task))
        for part in parts:
            if part.parent_task_run_id == task_run.id:
                yield Text.assemble("  flow run ", _bold(part.name), " ", coloured(part.state), f"  {part.id}")
        for one in made:
            if one.task_run_id == task_run.id:
                yield from artifact(one)


def _told(task_run: TaskRunHistory) -> Iterable[Text]:
    took = _ran(task_run)
    yield Text.assemble(_bold(_name(task_run)), f"  {took}" if took else "")
    for record in task_run.states:
        moment = f"{_local(record.timestamp):%H:%M:%S.%f}"[:-3]
        yield Text.assemble(f"  {moment} ", coloured(record.state), f"  {safe(record.message or '')}")
        if record.traceback:
            yield _indented(record.traceback)


def _ran(task_run: TaskRunHistory) -> str:
    """Return for how long a finished task run has run: without what it waited, or was over before a restart."""
    parts = [after.timestamp - one.timestamp for one, after in pairwise(task_run.states) if one.state == "Running"]
    return f"{sum(parts, datetime.timedelta()).total_seconds():.2f} s" if parts and task_run.end_time else ""


def artifact(made: ArtifactRecord) -> Iterable[RenderableType]:
    """Yield what shows an artifact; one of a kind that is not known, as JSON."""
    data = made.data
    yield Text.assemble("  ", (safe(made.kind), "italic"))
    known: dict[str, Any] = data if isinstance(data, dict) else {}
    if made.kind == "progress" and isinstance(known.get("progress"), (int, float)):
        label = safe(str(known.get("label") or ""))
        bar = ProgressBar(1.0, known["progress"], width=_BAR_WIDTH)
        yield Columns([Text("   "), bar, Text(f"{known['progress']:.0%} {label}".rstrip())])
    elif made.kind == "markdown" and isinstance(known.get("markdown"), str):
        yield _indented(known["markdown"])
    elif made.kind == "link" and isinstance(known.get("link"), str):
        yield Text(safe(" ".join(["   ", *([str(known["text"])] if known.get("text") else []), known["link"]])))
    elif isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        yield Padding(_table(data), (0, 0, 0, 4))
    else:
        yield _indented(msgspec.json.format(msgspec.json.encode(data)).decode())


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*[escape(safe(name)) for name in columns], box=box.SIMPLE_HEAD)
    for row in rows[:_MOST_ROWS]:
        cells = [row.get(name, "") for name in columns]
        table.add_row(
            *[Text(safe(one if isinstance(one, str) else msgspec.json.encode(one).decode())) for one in cells]
        )
    if len(rows) > _MOST_ROWS:
        table.caption = f"and {len(rows) - _MOST_ROWS:,} more rows"
    return table


def summary_of(run: FlowRunSummary, task_runs: Sequence[TaskRunHistory]) -> Iterable[Text]:
    """Yield the lines that tell a recorded flow run in short: each task, its children counted, and what failed."""
    yield from _heading(run)
    yield Text("")
    for slug, counts in _counts(task_runs).items():
        yield Text.assemble("  ", _bold(slug), "  ", _counted(counts))
    failed = [each for each in task_runs if _newest(each) in lifecycle.FAILED - {"TriggerFailed"}]
    for task_run in failed[:_MOST_FAILURES]:
        yield Text("")
        yield from _told(task_run)
    if len(failed) > _MOST_FAILURES:
        yield Text(f"and {len(failed) - _MOST_FAILURES:,} more failed")


def progress_table(run: FlowRunSummary, task_runs: Sequence[TaskRunHistory]) -> Table:
    """Return a table of the tasks of a recorded flow run as far as it is."""
    total = len(task_runs)
    finished = sum(_newest(each) in lifecycle.FINISHED for each in task_runs)
    title = Text.assemble(safe(f"{run.flow_name} {run.name} "), coloured(run.state))
    table = Table(title=title, title_justify="left", caption=f"{finished} of {total} task runs")
    table.add_column("task", overflow="fold")
    table.add_column("state", overflow="fold")
    table.add_column("done", min_width=_BAR_WIDTH)
    for slug, counts in _counts(task_runs).items():
        over = sum(count for name, count in counts.items() if name in lifecycle.FINISHED)
        bar = ProgressBar(sum(counts.values()), over, width=_BAR_WIDTH)
        table.add_row(Text(safe(slug)), _counted(counts), bar)
    return table


def _counts(task_runs: Sequence[TaskRunHistory]) -> dict[str, Counter[str]]:
    """Return for each task, in the order they began, how many of its runs are in which state; a map by its children."""
    counts: dict[str, Counter[str]] = {}
    mapped = {each.task_slug for each in task_runs if each.map_index >= 0}
    for each in sorted(task_runs, key=_order(task_runs)):
        of_task = counts.setdefault(each.task_slug, Counter())
        if each.map_index >= 0 or each.task_slug not in mapped:
            of_task[_newest(each)] += 1
    return counts


def _counted(counts: Counter[str]) -> Text:
    return Text(", ").join(Text.assemble(f"{count:,} ", coloured(name)) for name, count in counts.items())


def _newest(task_run: TaskRunHistory) -> str:
    return task_run.states[-1].state if task_run.states else "Pending"


def _order(task_runs: Sequence[TaskRunHistory]) -> Callable[[TaskRunHistory], tuple[datetime.datetime, str, int]]:
    """Order the task runs as their tasks began, the children of a mapped task together."""
    never = datetime.datetime.max.replace(tzinfo=datetime.UTC)
    first: dict[str, datetime.datetime] = {}
    for each in task_runs:
        first[each.task_slug] = min(first.get(each.task_slug, never), each.start_time or never)
    return lambda each: (first[each.task_slug], each.task_slug, each.map_index)


def _name(task_run: TaskRunHistory) -> str:
    name = place(task_run.task_slug, task_run.map_index)
    return f"{name} {task_run.name}" if task_run.name else name


def place(slug: str, map_index: int) -> str:
    """Return how a task run is called: its task, and its index among the mapped children."""
    return slug if map_index < 0 else f"{slug}[{map_index}]"


def _indented(traceback: str) -> Text:
    return Text("\n".join(f"    {line}" for line in safe(traceback, lines=True).splitlines()), style="dim")


# -- times ---------------------------------------------------------------------------------------------


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _local(moment: datetime.datetime) -> datetime.datetime:
    return moment.astimezone()


def _moment(moment: datetime.datetime | None) -> str:
    return "" if moment is None else f"{_local(moment):%Y-%m-%d %H:%M:%S}"


def _duration(start: datetime.datetime | None, end: datetime.datetime | None) -> str:
    return "" if start is None or end is None else f"{(end - start).total_seconds():.2f} s"


def _clock(length: datetime.timedelta) -> str:
    minutes, seconds = divmod(max(round(length.total_seconds()), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
