"""The command that runs a flow, and shows how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import sys
import uuid
import webbrowser
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import click
import msgspec
from rich.console import Console
from rich.live import Live

from ...engine.backend import Backend
from ...engine.cloud import CloudFlowRunner, create_flow_run
from ...engine.errors import FlowloopError
from ...engine.executors import executor_named
from ...engine.flow import Flow
from ...engine.flow_runner import FlowRunner
from ...engine.settings import Settings
from ...engine.state import State
from ...engine.watch import ItemEvent, RunEvent
from .common import as_async, backend_option, find, json_option, opened, pairs, print_json, settings_for
from .display import RunTable, change, failures, outcome, place
from .flow_file import load_flow
from .logs import set_up_logging

__all__ = ["ending_within", "handling", "run"]

_REFRESH_SECONDS = 0.1
_TERMINATED = 143


@click.command()
@click.argument("target", metavar="FILE[:FLOW]", type=click.Path())
@click.option("-p", "--param", "params", metavar="KEY=VALUE", multiple=True, help="A parameter; repeatable.")
@click.option("--id", "--resume", "resumed", metavar="RUN", help="Go on with this recorded flow run.")
@click.option("--name", metavar="NAME", help="The name of the flow run.")
@click.option("--label", "labels", multiple=True, help="A label of the flow run; repeatable.")
@click.option("--fail-fast", is_flag=True, help="The first failed task stops all others.")
@click.option(
    "--executor",
    metavar="WHERE",
    help="Where bodies run: local, local:8 (threads), processes, processes:4, dask, dask://HOST:8786. Else where the "
    "flow says, else FLOWLOOP_EXECUTOR.",
)
@click.option("--no-record", is_flag=True, help="Record nothing.")
@click.option("--open", "opens", is_flag=True, help="Show the flow run in the browser, where a server records it.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but what failed, and how the flow run ended.")
@click.option("--log-level", metavar="LEVEL", help="Else FLOWLOOP_LOG_LEVEL.")
@backend_option
@json_option
def run(
    target: str,
    params: tuple[str, ...],
    resumed: str | None,
    name: str | None,
    labels: tuple[str, ...],
    fail_fast: bool,
    executor: str | None,
    no_record: bool,
    opens: bool,
    quiet: bool,
    log_level: str | None,
    backend: str | None,
    as_json: bool,
) -> None:
    """Run the flow of a Python file, and record it.

    FLOW, the name of the flow or of its variable, is needed where the file defines several.
    Ends with 0 if the flow run is successful, with 1 if not, and with 130 after Ctrl-C, with all states recorded.
    In a pipe each change of state is a line.

    \b
    Example:
      flowloop run examples/seattle_weather.py -p year=2015
    """  # noqa: D301 - click reads the character
    settings = settings_for(backend)
    if log_level is not None:
        settings = msgspec.structs.replace(settings, log_level=log_level)
    if resumed is not None and (params or name or labels or no_record):
        raise FlowloopError("--id goes on with a flow run that has its parameters, name and labels")
    flow = load_flow(target)  # before there is a loop, so that Ctrl-C ends it
    flow.validate()
    parameters = {} if resumed else flow.check_parameters(pairs(params), complete=True, from_text=True)
    console = Console()
    screen = _Screen(flow, console, quiet=quiet, as_json=as_json)
    set_up_logging(settings, Console(stderr=True) if as_json else console, quiet=quiet)
    given = {"parameters": parameters, "executor": None if executor is None else executor_named(executor)}
    state: State | None
    if no_record:
        state = _run_unrecorded(FlowRunner(flow, settings=settings, fail_fast=fail_fast), screen, settings, given)
    else:
        chosen = _Chosen(flow, parameters, resumed, name, labels, opens)
        state = _run_recorded(chosen, screen, settings, given, fail_fast)
    if state is None or not state.is_successful():
        sys.exit(1)


@as_async
async def _run_unrecorded(runner: FlowRunner, screen: _Screen, settings: Settings, given: dict[str, Any]) -> State:
    state = await _watched(runner, screen, settings, given)
    screen.conclude(state, None, "")
    return state


class _Chosen(NamedTuple):
    """Which flow run it is to be."""

    flow: Flow
    parameters: dict[str, Any]
    resumed: str | None
    name: str | None
    labels: tuple[str, ...]
    opens: bool


@as_async
async def _run_recorded(
    chosen: _Chosen, screen: _Screen, settings: Settings, given: dict[str, Any], fail_fast: bool
) -> State | None:
    state: State | None = None
    async with opened(settings) as backend:
        runner = CloudFlowRunner(chosen.flow, backend=backend, settings=settings, fail_fast=fail_fast)
        try:
            flow_run_id = await _flow_run(chosen, backend, settings)
            if chosen.opens:
                _open_page(backend.url, flow_run_id)
            context = {} if flow_run_id is None else {"flow_run_id": flow_run_id}
            state = await _watched(runner, screen, settings, {**given, "context": context})
        finally:
            if runner.flow_run_id is not None:
                to_see_it = _to_see_it(runner.flow_run_id, settings, backend.url)
                screen.conclude(state, runner.flow_run_id, to_see_it)
    return state


async def _flow_run(chosen: _Chosen, backend: Backend, settings: Settings) -> str | None:
    """Return the flow run to go on with, or one with a name and labels; None leaves it to the runner to create one."""
    if chosen.resumed is not None:
        return (await find(backend, chosen.resumed)).id
    if chosen.name is None and not chosen.labels:
        return None
    # no worker has this label, so they leave the run to this process
    labels = [*chosen.labels, f"agentless-run-{uuid.uuid4().hex[:8]}"]
    return await create_flow_run(
        chosen.flow, backend, chosen.parameters, settings=settings, name=chosen.name, labels=labels
    )


def _open_page(url: str, flow_run_id: str | None) -> None:
    if not url.startswith(("http://", "https://")):
        raise FlowloopError(f"--open shows the page of a server, and {url} is none: see `flowloop server`")
    webbrowser.open(_page_of(url, flow_run_id))


def _page_of(url: str, flow_run_id: str | None) -> str:
    base = url.removesuffix("/").removesuffix("/graphql")
    return f"{base}/ui/runs/{flow_run_id}" if flow_run_id else f"{base}/ui/runs"


def _to_see_it(flow_run_id: str, settings: Settings, url: str) -> str:
    flowloop = "flowloop" if shutil.which("flowloop") else sys.argv[0]
    command = [flowloop, "show", flow_run_id]
    serve = [flowloop, "server"]
    if settings.default_backend_url != Settings().default_backend_url:
        command += ["--backend", url]
        serve += ["--db", url]
    if url.startswith(("http://", "https://")):
        in_browser = _page_of(url, flow_run_id)
    else:
        in_browser = f"{shlex.join(serve)}  # then {_page_of('http://127.0.0.1:4200', flow_run_id)}"
    return f"Recorded in {url}; to see it:\n  {in_browser}\n  {shlex.join(command)}"


# -- what is shown -------------------------------------------------------------------------------------


class _Screen:
    """What a person, or a program that reads along, is shown of a run."""

    def __init__(self, flow: Flow, console: Console, *, quiet: bool, as_json: bool) -> None:
        self._flow = flow
        self._console = console
        self._quiet = quiet
        self._as_json = as_json
        self._table = RunTable(flow)
        self.live = Live(self._table, console=console, auto_refresh=False, transient=True)
        self.is_live = console.is_terminal and not quiet and not as_json

    def apply(self, event: RunEvent) -> None:
        """Take a change of state into account, or an item of a body that goes on."""
        if isinstance(event, ItemEvent):
            self._apply_item(event)
            return
        self._table.apply(event)
        if self._as_json:
            known = {"event": "state", "timestamp": event.timestamp, "task": event.task_slug}
            more = {"map_index": event.map_index, "state": type(event.state).__name__, "attempt": event.run_count}
            message = None if event.state.message is None else str(event.state.message)
            parents = [place(*parent) for parent in event.parents]
            told = {"message": message, "traceback": event.state.traceback, "parents": parents}
            print_json({**known, **more, **told})
        elif not self.is_live and not self._quiet:
            self._console.print(change(event), soft_wrap=True, markup=False, highlight=False)

    def _apply_item(self, event: ItemEvent) -> None:
        if self._as_json:
            parents = [place(*parent) for parent in event.parents]
            known = {"event": "item", "timestamp": event.timestamp, "task": event.task_slug, "parents": parents}
            try:
                item = msgspec.to_builtins(event.item, str_keys=True, enc_hook=str)
            except Exception:
                item = repr(event.item)
            print_json({**known, "map_index": event.map_index, "attempt": event.run_count, "item": item})

    def leave_table(self) -> None:
        """Leave the table as it is in the end."""
        if not self._quiet and not self._as_json:
            self._table.final = True
            self._console.print(self._table)

    def conclude(self, state: State | None, flow_run_id: str | None, to_see_it: str) -> None:
        """Say how the run ended, and where it is recorded."""
        if self._as_json:
            name = None if state is None else type(state).__name__
            message = None if state is None or state.message is None else str(state.message)
            known = {"event": "end", "flow": self._flow.name, "id": flow_run_id}
            print_json({**known, "state": name, "message": message})
            return
        if state is not None:
            # where lines of failures are shown as they happen, the tracebacks were among them
            for line in [*failures(self._flow, state, tracebacks=self._quiet), outcome(self._flow, state)]:
                self._console.print(line, soft_wrap=True)
        if to_see_it and not self._quiet:
            self._console.print(to_see_it, soft_wrap=True, markup=False)


async def _watched(runner: FlowRunner, screen: _Screen, settings: Settings, arguments: dict[str, Any]) -> State:
    """Run a flow, and show how far it is."""

    async def follow() -> None:
        while True:  # a run that the backend holds back begins again, with another stream
            async for event in runner.events():
                screen.apply(event)
            await anyio.lowlevel.checkpoint()

    async def refresh() -> None:
        while True:
            screen.live.refresh()
            await anyio.sleep(_REFRESH_SECONDS)

    def stop() -> None:
        runner.cancel("shutdown")
        ending_within(2 * settings.cancel_grace, "its last states are not recorded, and a worker can go on with it")

    state: State | None = None
    problem: FlowloopError | None = None
    try:
        with screen.live if screen.is_live else contextlib.nullcontext():
            async with anyio.create_task_group() as group:
                group.start_soon(follow)
                if screen.is_live:
                    group.start_soon(refresh)
                await anyio.lowlevel.checkpoint()
                try:
                    with handling((signal.SIGTERM,), stop):
                        state = await runner.run(**arguments)
                except FlowloopError as error:
                    problem = error  # raised in the group, it would come out of it in an ExceptionGroup
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.lowlevel.checkpoint()  # the last events
                    group.cancel_scope.cancel()
    finally:
        if runner.flow_run_id is not None:
            screen.leave_table()
    if problem is not None:
        raise problem
    assert state is not None
    return state


# -- signals -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def handling(numbers: tuple[signal.Signals, ...], handler: Callable[[], None]) -> Iterator[None]:
    """Have signals call `handler` on the running loop."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):  # Windows has no such signals
        for number in numbers:
            loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in numbers:
                loop.remove_signal_handler(number)


def ending_within(seconds: float, otherwise: str) -> None:
    """End the process after so many seconds, whatever it still waits for.

    Args:
        - seconds: how long everything has to end by itself
        - otherwise: what is to be said where it has not
    """

    def end() -> None:
        click.echo(f"flowloop: stopped after {seconds:g} s: {otherwise}", err=True)
        sys.stdout.flush()
        os._exit(_TERMINATED)

    asyncio.get_running_loop().call_later(seconds, end)
