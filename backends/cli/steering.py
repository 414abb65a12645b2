"""The commands that steer flow runs: what they ask for is recorded, and whoever runs the flow run obeys it."""

from __future__ import annotations

import datetime
import getpass
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import click

from ...engine.backend import Backend, FlowRunSummary, FlowSummary
from ...engine.errors import BackendRejected, FlowloopError
from ...engine.given import check_given, from_text
from .common import (
    agreed,
    as_async,
    backend_option,
    complete_flow,
    complete_run,
    filter_of,
    filter_options,
    find,
    json_option,
    length,
    moment,
    opened,
    pairs,
    print_json,
    run_argument,
    settings_for,
)
from .display import place, safe

__all__ = ["COMMANDS"]

_AT_ONCE = 10_000
"""How many runs one command steers at most."""

COMMANDS: list[click.Command] = []


def _command(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    def make(function: Callable[..., Any]) -> click.Command:
        made = click.command(name)(function)
        COMMANDS.append(made)
        return made

    return make


def _told(as_json: bool, text: str, document: dict[str, Any]) -> None:
    if as_json:
        print_json(document)
    else:
        click.echo(safe(text))


# -- many runs at once ---------------------------------------------------------------------------------


async def _chosen(
    backend: Backend, names: Sequence[str], verb: str, filters: dict[str, Any], *, certain: bool
) -> list[FlowRunSummary]:
    """Return the runs that are named, or else those that a filter lets through, if the user agrees to their number."""
    if names:
        return [await find(backend, name) for name in names]
    if not any(filters.values()):
        raise FlowloopError(f"name the runs to {verb}, or choose them: --flow, --state, --since, --until, --search")
    found = await backend.list_flow_runs(_AT_ONCE, filter_of(**filters, parts=False))
    if found and not certain:
        agreed(f"{verb.capitalize()} {len(found)} flow run{'s' if len(found) > 1 else ''}?")
    return found


async def _each(runs: Sequence[FlowRunSummary], steer: Callable[[FlowRunSummary], Awaitable[None]]) -> None:
    """Steer runs one by one; one that is refused is told, and stops no other."""
    refused = 0
    for run in runs:
        try:
            await steer(run)
        except BackendRejected as error:
            if len(runs) == 1:
                raise
            refused += 1
            click.echo(safe(f"{run.name}: {error}"), err=True)
    if refused:
        raise FlowloopError(f"{refused} of {len(runs)} flow runs were left as they are")


def _many(command: Callable[..., Any]) -> Callable[..., Any]:
    yes = click.option("--yes", is_flag=True, help="Do not ask before several runs are chosen by a filter.")
    names = click.argument("runs", nargs=-1, shell_complete=complete_run)
    return names(filter_options(yes(command)))


@_command("cancel")
@_many
@backend_option
@json_option
@as_async
async def cancel(runs: tuple[str, ...], yes: bool, backend: str | None, as_json: bool, **filters: Any) -> None:
    """Cancel flow runs.

    RUNS are names, ids, or beginnings of ids; else the options choose. One that has not begun is Cancelled at once; one
    that goes on is Cancelling until its runner has stopped its tasks; a finished one stays as it is.
    """
    async with opened(settings_for(backend)) as open_backend:

        async def steer(run: FlowRunSummary) -> None:
            await open_backend.direct_flow_run(run.id, "cancel", author=_author())
            state = (await open_backend.find_flow_run(run.id)).state
            _told(as_json, f"{run.name} is {state}", {"id": run.id, "name": run.name, "state": state})

        await _each(await _chosen(open_backend, runs, "cancel", filters, certain=yes), steer)


@_command("delete")
@_many
@backend_option
@json_option
@as_async
async def delete(runs: tuple[str, ...], yes: bool, backend: str | None, as_json: bool, **filters: Any) -> None:
    """Delete flow runs, with all that was recorded of them.

    RUNS are names, ids, or beginnings of ids; else the options choose. One that goes on has to be cancelled first.
    """
    async with opened(settings_for(backend)) as open_backend:

        async def steer(run: FlowRunSummary) -> None:
            await open_backend.delete_flow_run(run.id)
            _told(as_json, f"{run.name} is deleted", {"id": run.id, "name": run.name})

        chosen = await _chosen(open_backend, runs, "delete", filters, certain=yes)
        if runs and not yes:
            names = ", ".join(safe(run.name) for run in chosen)
            agreed(f"Delete {names}?")
        await _each(chosen, steer)


@_command("restart")
@_many
@click.option("--at", metavar="TASK", help="Also this task, or child as in fetch-1[7], and all that follows from it.")
@click.option("--note", metavar="TEXT", help="Why.")
@backend_option
@json_option
@as_async
async def restart(
    runs: tuple[str, ...],
    yes: bool,
    at: str | None,
    note: str | None,
    backend: str | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """Run finished flow runs again.

    They are scheduled from the tasks that did not succeed.

    RUNS are names, ids, or beginnings of ids; else the options choose. A worker that has the flow takes them up.
    """
    task, map_index = (None, -1) if at is None else _split(at)
    async with opened(settings_for(backend)) as open_backend:

        async def steer(run: FlowRunSummary) -> None:
            asked: dict[str, Any] = {"task": task, "map_index": map_index, "note": note, "author": _author()}
            await open_backend.direct_flow_run(run.id, "restart", **asked)
            _told(as_json, f"{run.name} is Scheduled", {"id": run.id, "name": run.name, "state": "Scheduled"})

        await _each(await _chosen(open_backend, runs, "restart", filters, certain=yes), steer)


# -- tasks of a run ------------------------------------------------------------------------------------


def _author() -> str:
    return getpass.getuser()


def _split(place: str) -> tuple[str, int]:
    """Return the slug and the index of a task run that is written as in fetch-1[7]."""
    found = re.fullmatch(r"(.+)\[(\d+)\]", place)
    return (place, -1) if found is None else (found[1], int(found[2]))


def _of_task(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        options = [
            run_argument,
            click.argument("task", required=required),
            click.option("--note", metavar="TEXT", help="Why."),
            backend_option,
            json_option,
        ]
        for option in reversed(options):
            command = option(command)
        return command

    return add


_value_option = click.option(
    "--value", metavar="JSON", help="What the body finds in context.answer. JSON, or else text."
)


async def _direct(
    kind: str,
    run: str,
    task: str | None,
    done: str,
    backend: str | None,
    as_json: bool,
    *,
    value: Any = None,
    note: str | None = None,
    tag: str | None = None,
) -> None:
    """Ask something of a task run, or of the flow run itself."""
    async with opened(settings_for(backend)) as open_backend:
        summary = await find(open_backend, run)
        if tag is not None or kind == "set_limits":
            given: dict[str, Any] = {"tag": tag, "value": value, "note": note, "author": _author()}
            asked = await open_backend.direct_flow_run(summary.id, kind, **given)
            name = summary.name if tag is None else f"every task run with the tag {tag} of {summary.name}"
            _told(as_json, f"{name} {done}", {"id": asked.id, "kind": kind, "task": None, "map_index": -1, "tag": tag})
            return
        slug, map_index = (None, -1) if task is None else _split(task)
        given = {"task": slug, "map_index": map_index, "value": value, "note": note, "author": _author()}
        asked = await open_backend.direct_flow_run(summary.id, kind, **given)
        name = summary.name if slug is None else f"{place(slug, map_index)} of {summary.name}"
        document = {"id": asked.id, "kind": kind, "task": slug, "map_index": map_index, "tag": None}
        _told(as_json, f"{name} {done}", document)


@_command("resume")
@_of_task(required=False)
@_value_option
@as_async
async def resume(
    run: str, task: str | None, value: str | None, note: str | None, backend: str | None, as_json: bool
) -> None:
    """Let go on what is paused.

    One task run, or all that are paused; where none is, the flow run itself.

    TASK is a slug, with the index of a mapped child where it is one: `fetch-1[7]`.
    """
    given = None if value is None else from_text(None, value)
    await _direct("resume", run, task, "was resumed", backend, as_json, value=given, note=note)


@_command("approve")
@_of_task(required=False)
@_value_option
@as_async
async def approve(
    run: str, task: str | None, value: str | None, note: str | None, backend: str | None, as_json: bool
) -> None:
    """Approve what waits for a person: the same as `resume`."""
    given = None if value is None else from_text(None, value)
    await _direct("resume", run, task, "was approved", backend, as_json, value=given, note=note)


@_command("reject")
@_of_task(required=False)
@as_async
async def reject(run: str, task: str | None, note: str | None, backend: str | None, as_json: bool) -> None:
    """Reject what waits for a person: it fails."""
    await _direct("reject", run, task, "was rejected", backend, as_json, note=note)


@_command("skip")
@_of_task(required=True)
@as_async
async def skip(run: str, task: str, note: str | None, backend: str | None, as_json: bool) -> None:
    """Skip a task run that has not begun.

    What follows from it is skipped, too, unless it wants to run all the same.
    """
    await _direct("skip", run, task, "is skipped", backend, as_json, note=note)


_tag_option = click.option("--tag", metavar="TAG", help="All task runs of the tasks with this tag.")


def _task_or_tag(task: str | None, tag: str | None) -> None:
    if (task is None) == (tag is None):
        raise FlowloopError("name a task, or a --tag")


@_command("hold")
@_of_task(required=False)
@_tag_option
@as_async
async def hold(
    run: str, task: str | None, tag: str | None, note: str | None, backend: str | None, as_json: bool
) -> None:
    """Hold back a task run that has not begun.

    Until it is released; the rest of the flow run goes on.
    """
    _task_or_tag(task, tag)
    await _direct("hold", run, task, "is held", backend, as_json, note=note, tag=tag)


@_command("release")
@_of_task(required=False)
@_tag_option
@as_async
async def release(
    run: str, task: str | None, tag: str | None, note: str | None, backend: str | None, as_json: bool
) -> None:
    """Let a task run begin in its turn that is held."""
    _task_or_tag(task, tag)
    await _direct("release", run, task, "is released", backend, as_json, note=note, tag=tag)


@_command("set-limits")
@run_argument
@click.option("--concurrency", metavar="N", help="Task runs at once, in all.")
@click.option("--tag", "of_tags", metavar="TAG=N", multiple=True, help="At once of the tasks with a tag; repeatable.")
@click.option("--task", "of_tasks", metavar="TASK=N", multiple=True, help="At once of one task; repeatable.")
@click.option("--rate", metavar="N/LENGTH", help="How many begin in a length of time, as in 10/1s.")
@click.option("--timeout", metavar="LENGTH", help="How long the flow run may take from its beginning, as in 2h.")
@click.option("--note", metavar="TEXT", help="Why.")
@backend_option
@json_option
@as_async
async def set_limits(
    run: str,
    concurrency: str | None,
    of_tags: tuple[str, ...],
    of_tasks: tuple[str, ...],
    rate: str | None,
    timeout: str | None,
    note: str | None,
    backend: str | None,
    as_json: bool,
) -> None:
    """Set other limits for one flow run.

    Also while it goes on; `none` in the place of a number ends a limit.
    """
    asked: dict[str, Any] = {}
    if concurrency is not None:
        asked["concurrency"] = _number(concurrency)
    if of_tags:
        asked["tags"] = {tag: _number(number) for tag, number in pairs(of_tags).items()}
    if of_tasks:
        asked["tasks"] = {task: _number(number) for task, number in pairs(of_tasks).items()}
    if rate is not None:
        count, _, period = rate.partition("/")
        asked["rate"] = _number(count) and {"count": _number(count), "period": length(period).total_seconds()}
    if timeout is not None:
        asked["timeout"] = None if timeout == "none" else length(timeout).total_seconds()
    if not asked:
        raise FlowloopError("name at least one limit, for instance --concurrency 5")
    await _direct("set_limits", run, None, "has other limits", backend, as_json, value=asked, note=note)


def _number(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal():
        raise FlowloopError(f"a limit is a number, or none, not {text!r}")
    return int(text)


@_command("set-parameter")
@run_argument
@click.argument("name")
@click.argument("value")
@click.option("--note", metavar="TEXT", help="Why.")
@backend_option
@json_option
@as_async
async def set_parameter(run: str, name: str, value: str, note: str | None, backend: str | None, as_json: bool) -> None:
    """Give a parameter another value.

    Of a flow run that has not begun. VALUE is JSON, or else text.
    """
    await _named("set_parameter", run, name, value, note, "has parameter", backend, as_json)


@_command("set-result")
@_of_task(required=True)
@click.argument("value")
@as_async
async def set_result(run: str, task: str, value: str, note: str | None, backend: str | None, as_json: bool) -> None:
    """Give a task run a result.

    One that has not begun: its body does not run. VALUE is JSON, or else text.
    """
    await _direct("set_result", run, task, "has its result", backend, as_json, value=from_text(None, value), note=note)


@_command("event")
@run_argument
@click.argument("name")
@click.option("--value", metavar="JSON", help="What it brings. JSON, or else text.")
@click.option("--note", metavar="TEXT", help="Why.")
@backend_option
@json_option
@as_async
async def event(run: str, name: str, value: str | None, note: str | None, backend: str | None, as_json: bool) -> None:
    """Send an event to a flow run.

    A task that waits for this NAME goes on with the value.
    """
    await _named("event", run, name, value, note, "was sent the event", backend, as_json)


async def _named(
    kind: str, run: str, name: str, text: str | None, note: str | None, done: str, backend: str | None, as_json: bool
) -> None:
    async with opened(settings_for(backend)) as open_backend:
        summary = await find(open_backend, run)
        document = await _parameter(open_backend, summary, name) if kind == "set_parameter" else None
        value = None if text is None else from_text(document, text)
        given: dict[str, Any] = {"task": name, "value": value, "note": note, "author": _author()}
        asked = await open_backend.direct_flow_run(summary.id, kind, **given)
    told = {"id": asked.id, "kind": kind, "task": name, "map_index": -1, "tag": None}
    _told(as_json, f"{summary.name} {done} {name}", told)


async def _parameter(backend: Backend, run: FlowRunSummary, name: str) -> Mapping[str, Any] | None:
    """Return the document of a parameter of a run, as the newest version of its flow has it."""
    flows = [flow for flow in await backend.list_flows() if flow.name == run.flow_name]
    return next((one for flow in flows for one in flow.parameters if one["name"] == name), None)


# -- new runs ------------------------------------------------------------------------------------------


async def _flow(backend: Backend, name: str, project: str | None) -> FlowSummary:
    flows = await backend.list_flows()
    found = [flow for flow in flows if flow.name == name and (project is None or flow.project == project)]
    if len(found) == 1:
        return found[0]
    if found:
        projects = ", ".join(flow.project for flow in found)
        raise FlowloopError(f"there are flows {name!r} in several projects: give --project with one of {projects}")
    known = ", ".join(sorted({flow.name for flow in flows})) or "none"
    raise FlowloopError(f"there is no flow {name!r} in {backend.url}; there are: {known}")


_flow_argument = click.argument("flow", shell_complete=complete_flow)
_project_option = click.option("--project", metavar="NAME", help="Where several projects have a flow of that name.")


@_command("create")
@_flow_argument
@click.option("-p", "--param", "params", metavar="KEY=VALUE", multiple=True, help="A parameter; repeatable.")
@click.option("--name", metavar="NAME", help="The name of the run.")
@click.option("--label", "labels", multiple=True, help="Who takes the run has all its labels; repeatable.")
@click.option("--at", metavar="WHEN", help="When it begins: a date, or a date and time. Else at once.")
@click.option(
    "--priority", type=int, default=0, help="Of what is ready, what has a higher one goes first; 0 by default."
)
@click.option("--fairness-key", metavar="KEY", help="Whose it is: of one priority, the keys take turns.")
@click.option("--every", metavar="LENGTH", help="A run for each of many dates, as in 1d; with --from and --to.")
@click.option("--from", "first", metavar="WHEN", help="The first of these dates.")
@click.option("--to", "last", metavar="WHEN", help="The end of these dates, which is not one itself.")
@_project_option
@backend_option
@json_option
@as_async
async def create(
    flow: str,
    params: tuple[str, ...],
    name: str | None,
    labels: tuple[str, ...],
    at: str | None,
    priority: int,
    fairness_key: str | None,
    every: str | None,
    first: str | None,
    last: str | None,
    project: str | None,
    backend: str | None,
    as_json: bool,
) -> None:
    """Create a run of a registered flow.

    A worker takes it up. With --every it is many, one for each date. A value is JSON, or else text. `{date}` in it, and
    in the name, is the date that a run is for.
    """
    dates = _dates(every, first, last) if every or first or last else [None]
    async with opened(settings_for(backend)) as open_backend:
        found = await _flow(open_backend, flow, project)
        planned = [_given(found, params, date) for date in dates]
        for date, parameters in zip(dates, planned, strict=True):
            flow_run_id = await open_backend.create_flow_run(
                found.id,
                parameters=parameters,
                name=None if name is None else _dated(name, date),
                labels=list(labels) or None,
                scheduled_start_time=moment(at),
                priority=priority,
                fairness_key=fairness_key,
            )
            run = await open_backend.find_flow_run(flow_run_id)
            document = {"id": run.id, "name": run.name, "flow": found.name, "state": run.state}
            _told(as_json, f"{run.name} {run.id}", document)


def _dates(every: str | None, first: str | None, last: str | None) -> list[datetime.datetime | None]:
    begin, end = moment(first), moment(last)
    if every is None or begin is None or end is None:
        raise FlowloopError("--every, --from and --to go together")
    step = length(every)
    if not step:
        raise FlowloopError("--every is a length of time, and longer than none")
    dates: list[datetime.datetime | None] = []
    while begin < end and len(dates) <= _AT_ONCE:
        dates.append(begin)
        begin += step
    if len(dates) > _AT_ONCE:
        raise FlowloopError(f"these are more than {_AT_ONCE} runs")
    return dates


def _dated(text: str, date: datetime.datetime | None) -> str:
    return text if date is None else text.replace("{date}", date.date().isoformat())


def _given(flow: FlowSummary, params: tuple[str, ...], date: datetime.datetime | None) -> dict[str, Any]:
    """Return the parameters of one of the runs that are created; none is created if one cannot be."""
    documents = {document["name"]: document for document in flow.parameters}
    texts = {key: _dated(text, date) for key, text in pairs(params).items()}
    given = {key: from_text(documents.get(key), text) for key, text in texts.items()}
    check_given(flow.parameters, given)
    return given


# -- schedules and limits ------------------------------------------------------------------------------


@click.group("schedule")
def schedule() -> None:
    """Turn a schedule on and off; see what is planned."""


COMMANDS.append(schedule)


def _switch(name: str, active: bool, summary: str) -> None:
    @_project_option
    @backend_option
    @json_option
    @as_async
    async def switch(flow: str, project: str | None, backend: str | None, as_json: bool) -> None:
        async with opened(settings_for(backend)) as open_backend:
            found = await _flow(open_backend, flow, project)
            if not await open_backend.set_schedule_active(found.id, active):
                raise FlowloopError(f"flow {flow!r} has no schedule")
        document = {"id": found.id, "flow": found.name, "schedule_active": active}
        _told(as_json, f"the schedule of {found.name} is {name}", document)

    schedule.add_command(click.command(name, help=summary)(_flow_argument(switch)))


_switch("on", True, "Plan the runs of a flow after its schedule from now on.")
_switch("off", False, "Plan no more runs of a flow.\n\nThose that were planned and have not begun are taken back.")


@schedule.command("next")
@_flow_argument
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many to show.")
@backend_option
@json_option
@as_async
async def next_runs(flow: str, limit: int, backend: str | None, as_json: bool) -> None:
    """Show the planned runs of a flow, the next one first."""
    async with opened(settings_for(backend), to_look=True) as open_backend:
        await _flow(open_backend, flow, None)
        planned = await open_backend.list_flow_runs(_AT_ONCE, filter_of(flow, ("Scheduled",), None, None, None))
    times = {run.id: run.scheduled_start_time for run in planned if run.scheduled_start_time is not None}
    if not times and not as_json:
        click.echo(safe(f"No runs of {flow} are planned."))
    for run in sorted((run for run in planned if run.id in times), key=lambda run: times[run.id])[:limit]:
        document = {"id": run.id, "name": run.name, "scheduled_start_time": times[run.id]}
        _told(as_json, f"{times[run.id].astimezone():%Y-%m-%d %H:%M:%S %Z}  {run.name}", document)


@click.group("limits", invoke_without_command=True)
@backend_option
@json_option
@click.pass_context
def limits(ctx: click.Context, backend: str | None, as_json: bool) -> None:
    """Show, and set, how much goes on at once, or begins.

    Task runs by the tags of their tasks, flow runs by their labels.
    """
    if ctx.invoked_subcommand is None:
        _show_limits(backend, as_json)


COMMANDS.append(limits)


@as_async
async def _show_limits(backend: str | None, as_json: bool) -> None:
    async with opened(settings_for(backend), to_look=True) as open_backend:
        found = await open_backend.list_limits()
    for limit in found:
        _tell_limit(limit.kind, limit.name, limit.limit, limit.period, as_json)
    if not found and not as_json:
        click.echo(f"Nothing is limited in {open_backend.url}.")


_kind_argument = click.argument("kind", type=click.Choice(["tag", "rate", "label"]))


@limits.command("set")
@_kind_argument
@click.argument("name")
@click.argument("limit", type=click.IntRange(0))
@click.option("--per", type=float, metavar="SECONDS", help="Of a rate: in how many seconds so many begin.")
@backend_option
@json_option
@as_async
async def set_limit(kind: str, name: str, limit: int, per: float | None, backend: str | None, as_json: bool) -> None:
    """Set how many go on at once, or how often they begin.

    Of the task runs with a tag, or of the flow runs with a label; a rate is of the task runs with a tag, for instance
    `flowloop limits set rate api 10 --per 60`.
    """
    if (kind == "rate") != (per is not None):
        raise FlowloopError("a rate, and nothing else, is so many --per SECONDS: limits set rate api 10 --per 60")
    await _set_limit(kind, name, limit, per, backend, as_json)


@limits.command("remove")
@_kind_argument
@click.argument("name")
@backend_option
@json_option
@as_async
async def remove_limit(kind: str, name: str, backend: str | None, as_json: bool) -> None:
    """Take a limit away."""
    await _set_limit(kind, name, None, None, backend, as_json)


async def _set_limit(
    kind: str, name: str, limit: int | None, per: float | None, backend: str | None, as_json: bool
) -> None:
    async with opened(settings_for(backend)) as open_backend:
        await open_backend.set_limit(kind, name, limit, period=per)
    _tell_limit(kind, name, limit, per, as_json)


def _tell_limit(kind: str, name: str, limit: int | None, per: float | None, as_json: bool) -> None:
    shown = "no limit" if limit is None else f"{limit}" if per is None else f"{limit} per {per:g} s"
    _told(as_json, f"{kind} {name}: {shown}", {"kind": kind, "name": name, "limit": limit, "period": per})
