"""The commands that look: lists of runs and flows, one run with its states, its log, and a run as it goes on."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Iterable
from typing import Any

import anyio
import click
import msgspec
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from ...engine import lifecycle
from ...engine.backend import Backend, FlowRunFilter, FlowRunSummary, LogRecord, TaskRunHistory
from .common import (
    as_async,
    backend_option,
    complete_run,
    filter_of,
    filter_options,
    find,
    json_option,
    opened,
    print_json,
    run_argument,
    settings_for,
)
from .display import flow_list, history, log_line, place, progress_table, run_list, safe, summary_of

__all__ = ["COMMANDS"]

_TIMED_OUT = 124
_MOST_PARTS = 1_000
_WIDE = 10_000
_BIG = 200
"""Task runs above which `show` counts them instead of telling each."""

COMMANDS: list[click.Command] = []


def _command(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    def make(function: Callable[..., Any]) -> click.Command:
        made = click.command(name)(function)
        COMMANDS.append(made)
        return made

    return make


@_command("runs")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many to show.")
@filter_options
@click.option("--all", "planned", is_flag=True, help="Also runs that are planned for later, and parts of other runs.")
@backend_option
@json_option
@as_async
async def runs(limit: int, planned: bool, backend: str | None, as_json: bool, **filters: Any) -> None:
    """List the newest flow runs.

    Without those that are planned for later, and those that are a task run of another one, unless --all is given.
    """
    now = datetime.datetime.now(datetime.UTC)
    only = filter_of(**filters, due_before=None if planned else now + datetime.timedelta(seconds=1), parts=planned)
    async with opened(settings_for(backend), to_look=True) as open_backend:
        found = await open_backend.list_flow_runs(limit, only)
    if as_json:
        print_json(*found)
    else:
        nothing = f"There are no such runs in {open_backend.url}."
        _print(run_list(found) if found else nothing)


def _print(told: RenderableType) -> None:
    """Print a table or a line; a pipe is as wide as that is."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    console.print(told, soft_wrap=isinstance(told, str))


@_command("flows")
@backend_option
@json_option
@as_async
async def flows(backend: str | None, as_json: bool) -> None:
    """List the registered flows.

    In their newest versions, with the next planned run of each.
    """
    async with opened(settings_for(backend), to_look=True) as open_backend:
        found = await open_backend.list_flows()
    if as_json:
        print_json(*found)
    else:
        nothing = f"There are no flows in {open_backend.url}."
        _print(flow_list(found) if found else nothing)


# -- one run -------------------------------------------------------------------------------------------


@_command("show")
@run_argument
@click.option("--failed", is_flag=True, help="Only task runs that failed.")
@click.option(
    "--task", "tasks", multiple=True, metavar="TASK", help="Only this task, or child as fetch-1[7]; repeatable."
)
@click.option("--logs", is_flag=True, help="The log of the run, too.")
@click.option("--tree", is_flag=True, help="One line for each task, its children counted below it.")
@click.option("--all", "everything", is_flag=True, help=f"Every task run, also where there are more than {_BIG}.")
@backend_option
@json_option
@as_async
async def show(
    run: str,
    failed: bool,
    tasks: tuple[str, ...],
    logs: bool,
    tree: bool,
    everything: bool,
    backend: str | None,
    as_json: bool,
) -> None:
    """Show a flow run: its task runs and failures.

    All their states are told, and the tracebacks of those that failed.

    RUN is the name of the flow run, its id, or the beginning of its id. Where there are many task runs they are
    counted, and the failed ones are told.
    """
    async with opened(settings_for(backend), to_look=True) as open_backend:
        summary, task_runs = await open_backend.get_flow_run_history((await find(open_backend, run)).id)
        made = await open_backend.list_artifacts(summary.id)
        parts = await open_backend.list_flow_runs(_MOST_PARTS, FlowRunFilter(part_of=summary.id))
        lines = await _log(open_backend, summary.id) if logs else []
    chosen = [each for each in task_runs if _is_chosen(each, tasks, failed=failed)]
    if as_json:
        shown = {each.id for each in chosen}
        artifacts = [one for one in made if one.task_run_id in shown]
        document = {**msgspec.structs.asdict(summary), "task_runs": chosen, "artifacts": artifacts}
        document["parts"] = [part for part in parts if part.parent_task_run_id in shown]
        print_json(document | ({"logs": lines} if logs else {}))
        return
    counts = tree or (len(chosen) > _BIG and not everything)
    console = Console()
    told = summary_of(summary, chosen) if counts else history(summary, chosen, made, parts)
    names = _names(task_runs)
    log = [log_line(line, names.get(line.task_run_id)) for line in lines]
    for line in [*told, *([Text("")] if log else []), *log]:
        console.print(line, soft_wrap=True)


def _names(task_runs: Iterable[TaskRunHistory]) -> dict[str | None, str]:
    return {each.id: place(each.task_slug, each.map_index) for each in task_runs}


def _is_chosen(task_run: TaskRunHistory, tasks: tuple[str, ...], *, failed: bool) -> bool:
    if failed and not (task_run.states and task_run.states[-1].state in lifecycle.FAILED):
        return False
    names = {task_run.task_slug, place(task_run.task_slug, task_run.map_index), task_run.name, task_run.id}
    return not tasks or not names.isdisjoint(tasks)


async def _log(backend: Backend, flow_run_id: str, skip: int = 0) -> list[LogRecord]:
    lines: list[LogRecord] = []
    while page := await backend.get_run_logs(flow_run_id, skip=skip + len(lines)):
        lines += page
    return lines


@_command("logs")
@run_argument
@click.option("-f", "--follow", is_flag=True, help="Wait for more, until the flow run has ended.")
@click.option("--interval", default=1.0, show_default=True, type=click.FloatRange(0.05), help="Seconds between looks.")
@backend_option
@json_option
@as_async
async def logs(run: str, follow: bool, interval: float, backend: str | None, as_json: bool) -> None:
    """Print the log of a flow run."""
    async with opened(settings_for(backend), to_look=True) as open_backend:
        summary = await find(open_backend, run)
        console = Console()
        names: dict[str | None, str] = {}
        read = 0
        while True:
            ended = (await open_backend.get_flow_run_state(summary.id)).is_finished()
            lines = await _log(open_backend, summary.id, read)
            read += len(lines)
            if not as_json and {line.task_run_id for line in lines} - names.keys() - {None}:
                names = _names((await open_backend.get_flow_run_history(summary.id))[1])
            for line in lines:
                if as_json:
                    print_json(line)
                else:
                    console.print(log_line(line, names.get(line.task_run_id)), soft_wrap=True)
            if ended or not follow:
                return
            await anyio.sleep(interval)


# -- as it goes on -------------------------------------------------------------------------------------


@_command("watch")
@run_argument
@click.option("--interval", default=1.0, show_default=True, type=click.FloatRange(0.05), help="Seconds between looks.")
@backend_option
@json_option
@as_async
async def watch(run: str, interval: float, backend: str | None, as_json: bool) -> None:
    """Show a flow run as it goes on.

    Wherever it runs, until it has ended. In a pipe, each change of state is a line. Ends as `wait` does.
    """
    console = Console()
    async with opened(settings_for(backend), to_look=True) as open_backend:
        summary, task_runs = await open_backend.get_flow_run_history((await find(open_backend, run)).id)
        seen: set[tuple[str, int]] = set()
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                if as_json or not console.is_terminal:
                    _print_changes(console, task_runs, seen, as_json=as_json)
                else:
                    live.update(progress_table(summary, task_runs), refresh=True)
                if summary.state in lifecycle.FINISHED:
                    break
                await anyio.sleep(interval)
                summary, task_runs = await open_backend.get_flow_run_history(summary.id)
    if as_json:
        print_json({"event": "end", **msgspec.structs.asdict(summary)})
    else:
        for line in summary_of(summary, task_runs):
            console.print(line, soft_wrap=True)
    sys.exit(_exit_code([summary]))


def _print_changes(
    console: Console, task_runs: Iterable[TaskRunHistory], seen: set[tuple[str, int]], *, as_json: bool
) -> None:
    changes = [
        (record.timestamp, each, record)
        for each in task_runs
        for record in each.states
        if (each.id, record.version) not in seen
    ]
    for timestamp, each, record in sorted(changes, key=lambda change: change[0]):
        seen.add((each.id, record.version))
        if as_json:
            known = {"event": "state", "timestamp": timestamp, "task": each.task_slug, "map_index": each.map_index}
            print_json({**known, "state": record.state, "message": record.message, "traceback": record.traceback})
        else:
            name = place(each.task_slug, each.map_index)
            why = f": {safe(record.message or '')}" if record.state in lifecycle.FAILED else ""
            console.print(Text(f"{timestamp.astimezone():%H:%M:%S} {safe(name)} {record.state}{why}"), soft_wrap=True)


@_command("wait")
@click.argument("runs", nargs=-1, required=True, shell_complete=complete_run)
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help=f"Then end with {_TIMED_OUT}.")
@click.option("--interval", default=1.0, show_default=True, type=click.FloatRange(0.05), help="Seconds between looks.")
@backend_option
@json_option
@as_async
async def wait(
    runs: tuple[str, ...], timeout: float | None, interval: float, backend: str | None, as_json: bool
) -> None:
    """Wait until flow runs have ended. Ends with 0 if all are successful, with 1 if not."""
    ended: list[FlowRunSummary] = []
    async with opened(settings_for(backend), to_look=True) as open_backend:
        with anyio.move_on_after(timeout):
            for run in runs:
                summary = await find(open_backend, run)
                while summary.state not in lifecycle.FINISHED:
                    await anyio.sleep(interval)
                    summary = await open_backend.find_flow_run(summary.id)
                ended.append(summary)
                if as_json:
                    print_json(summary)
                else:
                    click.echo(f"{summary.name} {summary.state}")
    sys.exit(_exit_code(ended) if len(ended) == len(runs) else _TIMED_OUT)


def _exit_code(runs: Iterable[FlowRunSummary]) -> int:
    return 0 if all(run.state in lifecycle.SUCCESS for run in runs) else 1
