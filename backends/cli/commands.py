"""The commands."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import logging
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, ParamSpec, TypeVar

import anyio
import anyio.lowlevel
import click
import msgspec
from click.shell_completion import CompletionItem
from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler

from ...engine.backend import Backend, connect
from ...engine.cloud import CloudFlowRunner, register_flow
from ...engine.errors import FlowloopError
from ...engine.flow_loop import run_sync
from ...engine.settings import Settings, read_settings
from ...engine.state import State
from .display import RunTable, failures, history, outcome, run_list
from .flow_file import load_flow

__all__ = ["flowloop"]

P = ParamSpec("P")
T = TypeVar("T")

_REFRESH_SECONDS = 0.1
_INTERRUPTED = 130


class _Commands(click.Group):
    """A group whose commands end with one line where flowloop raised an error."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FlowloopError as error:
            raise click.ClickException(str(error)) from error


def _async(command: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Run a command on an event loop of its own; Ctrl-C cancels it, and waits until it has ended."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return run_sync(command(*args, **kwargs), instead=f"await flowloop.{command.__name__}()")
        except KeyboardInterrupt:
            sys.exit(_INTERRUPTED)

    return run


def _settings(backend: str | None) -> Settings:
    settings = Settings.from_env()
    return settings if backend is None else msgspec.structs.replace(settings, backend_url=backend)


def _backend(settings: Settings) -> Backend:
    return connect(settings.default_backend_url, settings=settings)


def _complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    async def names() -> list[str]:
        async with _backend(_settings(ctx.params.get("backend"))) as backend:
            return [run.name for run in await backend.list_flow_runs(50)]

    try:
        found = run_sync(names(), instead="await names()")
    except FlowloopError:
        found = []
    return [CompletionItem(name) for name in found if name.startswith(incomplete)]


_backend_option = click.option(
    "--backend",
    metavar="URL",
    help="Where runs are recorded: sqlite:///FILE, postgresql://… or http://HOST:PORT. "
    "Else FLOWLOOP_BACKEND_URL, else flowloop.db in FLOWLOOP_HOME (~/.flowloop).",
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="flowloop")
def flowloop() -> None:
    r"""Run flows, serve the API they are recorded through, and look at recorded runs.

    \b
    To complete commands, options and runs in the shell:
      bash:  eval "$(_FLOWLOOP_COMPLETE=bash_source flowloop)"
      zsh:   eval "$(_FLOWLOOP_COMPLETE=zsh_source flowloop)"
      fish:  _FLOWLOOP_COMPLETE=fish_source flowloop | source
    """


# -- running -------------------------------------------------------------------------------------------


@flowloop.command()
@click.argument("target", metavar="FILE[:FLOW]", type=click.Path())
@click.option("-p", "--param", "params", metavar="KEY=VALUE", multiple=True, help="A parameter; repeatable.")
@_backend_option
@_async
async def run(target: str, params: tuple[str, ...], backend: str | None) -> None:
    r"""Run the flow that a Python file defines, and record it.

    FLOW, the name of the flow or of its variable, is needed where the file defines several.
    Ends with 0 if the flow run is successful, with 1 if not, and with 130 after Ctrl-C, with all states recorded.

    \b
    Example:
      flowloop run examples/seattle_weather.py -p year=2015
    """
    settings = _settings(backend)
    flow = load_flow(target)
    flow.validate()
    parameters = flow.check_parameters(_pairs(params), complete=True, from_text=True)
    console = Console()
    _set_up_logging(settings, console)
    async with _backend(settings) as opened:
        runner = CloudFlowRunner(flow, backend=opened, settings=settings)
        try:
            state = await _watched(runner, parameters, console)
            for line in [*failures(flow, state), outcome(flow, state)]:
                console.print(line, soft_wrap=True)
        finally:
            if runner.flow_run_id is not None:
                _say_where(console, runner.flow_run_id, settings, opened.url)
    if not state.is_successful():
        sys.exit(1)


def _pairs(params: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for param in params:
        key, equals, value = param.partition("=")
        if not equals or not key:
            raise FlowloopError(f"a parameter is given as KEY=VALUE, not as {param!r}")
        if key in pairs:
            raise FlowloopError(f"parameter {key!r} is given twice")
        pairs[key] = value
    return pairs


async def _watched(runner: CloudFlowRunner, parameters: dict[str, Any], console: Console) -> State:
    """Run a flow, show how far it is, and leave the final table."""
    table = RunTable(runner.flow)
    live = Live(table, console=console, auto_refresh=False, transient=True)

    async def follow() -> None:
        while True:  # a run that the backend holds back begins again, with another stream
            async for event in runner.events():
                table.apply(event)
            await anyio.lowlevel.checkpoint()

    async def refresh() -> None:
        while True:
            live.refresh()
            await anyio.sleep(_REFRESH_SECONDS)

    state: State | None = None
    problem: FlowloopError | None = None
    try:
        with live:
            async with anyio.create_task_group() as group:
                group.start_soon(follow)
                group.start_soon(refresh)
                await anyio.lowlevel.checkpoint()
                try:
                    with _handling((signal.SIGTERM,), lambda: runner.cancel("shutdown")):
                        state = await runner.run(parameters=parameters)
                except FlowloopError as error:
                    problem = error  # raised in the group, it would come out of it in an ExceptionGroup
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.lowlevel.checkpoint()  # the last events
                    group.cancel_scope.cancel()
    finally:
        if runner.flow_run_id is not None:
            table.final = True
            console.print(table)
    if problem is not None:
        raise problem
    assert state is not None
    return state


@contextlib.contextmanager
def _handling(numbers: tuple[signal.Signals, ...], handler: Callable[[], None]) -> Iterator[None]:
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


def _set_up_logging(settings: Settings, console: Console) -> None:
    levels = logging.getLevelNamesMapping()
    level = levels.get(settings.log_level.upper())
    if level is None:
        raise FlowloopError(f"FLOWLOOP_LOG_LEVEL is one of {', '.join(levels)}, not {settings.log_level!r}")
    logger = logging.getLogger("flowloop")
    logger.setLevel(level)
    logger.handlers = [_log_handler(console)]
    logger.propagate = False


def _log_handler(console: Console) -> logging.Handler:
    if console.is_terminal:
        return RichHandler(console=console, show_path=False)
    handler = logging.StreamHandler(console.file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


def _say_where(console: Console, flow_run_id: str, settings: Settings, url: str) -> None:
    command = ["flowloop" if shutil.which("flowloop") else sys.argv[0], "show", flow_run_id]
    if settings.default_backend_url != Settings().default_backend_url:
        command += ["--backend", url]
    console.print(f"Recorded in {url}; to see it:\n  {shlex.join(command)}", soft_wrap=True, markup=False)


# -- looking -------------------------------------------------------------------------------------------


@flowloop.command()
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many to show.")
@_backend_option
@_async
async def runs(limit: int, backend: str | None) -> None:
    """List the newest flow runs."""
    async with _backend(_settings(backend)) as opened:
        found = await opened.list_flow_runs(limit)
    Console().print(run_list(found) if found else f"There are no runs in {opened.url}.", soft_wrap=not found)


@flowloop.command()
@click.argument("run", shell_complete=_complete_run)
@_backend_option
@_async
async def show(run: str, backend: str | None) -> None:
    """Show every task run of a flow run, with all its states.

    RUN is the name of the flow run, its id, or the beginning of its id.
    """
    async with _backend(_settings(backend)) as opened:
        summary, task_runs = await opened.get_flow_run_history(run)
    console = Console()
    for line in history(summary, task_runs):
        console.print(line, soft_wrap=True)


# -- serving -------------------------------------------------------------------------------------------

_db_option = click.option(
    "--db", metavar="URL", help="The database: sqlite:///FILE or postgresql://…. Else flowloop.db in FLOWLOOP_HOME."
)


def _database(db: str | None, settings: Settings) -> str:
    return db or msgspec.structs.replace(settings, backend_url="").default_backend_url


@flowloop.command()
@_db_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=4200, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@_async
async def server(db: str | None, host: str, port: int) -> None:
    """Serve the GraphQL API on a database, until Ctrl-C or SIGTERM.

    Off loopback each request has to carry an API key: make one with `flowloop db create-key`.
    Limits and services are set by FLOWLOOP_SERVER_… variables, see docs/settings.md.
    """
    from ..server.run import serve, settle
    from ..server.settings import ServerSettings

    settings = Settings.from_env()
    _set_up_logging(settings, Console(stderr=True))

    async def started(url: str) -> None:
        settle()
        click.echo(f"flowloop serves {url}")

    limits = read_settings(ServerSettings, "FLOWLOOP_SERVER_")
    await serve(_database(db, settings), host=host, port=port, settings=limits, started=started)


@flowloop.command()
@click.argument("targets", metavar="FILE[:FLOW]...", nargs=-1, required=True, type=click.Path())
@click.option("--concurrency", default=200, show_default=True, type=click.IntRange(1), help="Flow runs at once.")
@click.option("--label", "labels", multiple=True, help="Take the runs that have this label; repeatable.")
@_backend_option
@_async
async def worker(targets: tuple[str, ...], concurrency: int, labels: tuple[str, ...], backend: str | None) -> None:
    """Take flow runs of these flows that are ready, and run them, until Ctrl-C or SIGTERM.

    The flows are registered first if they are new or changed, so their schedules count. A signal lets what runs go on
    for a while, and hands over the rest; a second one hands it over at once.
    """
    from ..worker import Worker

    settings = _settings(backend)
    _set_up_logging(settings, Console(stderr=True))
    flows = {flow.name: flow for flow in map(load_flow, targets)}
    async with _backend(settings) as opened:
        for flow in flows.values():
            await register_flow(flow, opened, settings=settings)
        taking = Worker(opened, flows, concurrency=concurrency, labels=labels, settings=settings)
        stops = 0

        def stop() -> None:
            nonlocal stops
            stops += 1
            taking.stop(at_once=stops > 1)

        with _handling((signal.SIGINT, signal.SIGTERM), stop):
            click.echo(f"flowloop works on {', '.join(flows)} in {opened.url}")
            await taking.run()


@flowloop.group(name="db")
def database() -> None:
    """Look after a database."""


@database.command()
@_db_option
@_async
async def upgrade(db: str | None) -> None:
    """Bring a database that an earlier flowloop wrote to the tables of this one."""
    from ..store.migrations import upgrade as migrate

    before, now = await migrate(_database(db, Settings.from_env()))
    click.echo(f"at version {now} already" if before == now else f"upgraded from {before or 'nothing'} to {now}")


@database.command()
@click.option("--older-than", required=True, metavar="AGE", help="For instance 30d, 12h, 90m or 45s.")
@_db_option
@_async
async def prune(older_than: str, db: str | None) -> None:
    """Delete runs that finished, and records that were last used, longer ago than AGE."""
    from ..store import Store

    age = _age(older_than)
    async with Store(_database(db, Settings.from_env())) as store:
        deleted = await store.prune(age)
    for table, count in deleted.items():
        click.echo(f"{table}: {count} deleted")


@database.command()
@click.argument("name")
@click.option("--read-only", is_flag=True, help="The key may read, and write nothing.")
@_db_option
@_async
async def create_key(name: str, read_only: bool, db: str | None) -> None:
    """Make an API key, and print it: it is shown this once.

    The client sends it when it is in FLOWLOOP_API_KEY.
    """
    from ..store import ANYONE, Store

    async with Store(_database(db, Settings.from_env())) as store:
        await store.default_tenant(ANYONE)
        scopes = ["read"] if read_only else ["read", "write"]
        created = await store.create_api_key(ANYONE, name=name, scopes=scopes)
    click.echo(created["key"])


def _age(text: str) -> datetime.timedelta:
    found = re.fullmatch(r"(\d+)([dhms])", text.strip())
    if found is None:
        raise FlowloopError(f"an age is a number and one of d, h, m and s, as in 30d, not {text!r}")
    unit = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}[found[2]]
    return datetime.timedelta(**{unit: int(found[1])})
