"""The commands."""

from __future__ import annotations

import datetime
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec
from rich.console import Console

from ...engine.backend import FlowRunReservation
from ...engine.cloud import register_flow
from ...engine.errors import FlowloopError
from ...engine.flow import Flow
from ...engine.presence import new_owner
from ...engine.settings import Settings, read_settings
from ..isolation import LEFT, Isolation
from ..worker import FlowLoader, Worker
from . import looking, migrating, notifying, secrets, steering
from .common import (
    as_async,
    backend_option,
    has_database,
    interrupted,
    json_option,
    length,
    opened,
    print_json,
    settings_for,
)
from .display import safe
from .flow_file import load_flow
from .logs import set_up_logging
from .running import ending_within, handling, run

__all__ = ["flowloop"]


class _Commands(click.Group):
    """A group whose commands end with one line where flowloop raised an error."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FlowloopError as error:
            raise click.ClickException(safe(str(error), lines=True)) from error
        except KeyboardInterrupt:
            interrupted()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="flowloop")
def flowloop() -> None:
    """Run flows, serve the API they are recorded through, and look at recorded runs.

    \b
    To complete commands, options and runs in the shell:
      bash:  eval "$(_FLOWLOOP_COMPLETE=bash_source flowloop)"
      zsh:   eval "$(_FLOWLOOP_COMPLETE=zsh_source flowloop)"
      fish:  _FLOWLOOP_COMPLETE=fish_source flowloop | source
    """  # noqa: D301 - click reads the character


for _command in (run, *looking.COMMANDS, *steering.COMMANDS, migrating.migrate, notifying.notify, secrets.secrets):
    flowloop.add_command(_command)


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
@as_async
async def server(db: str | None, host: str, port: int) -> None:
    """Serve the API and the page of a database.

    Until Ctrl-C or SIGTERM. Off loopback each request has to carry an API key: make one with `flowloop db create-key`.
    Limits and services are set by FLOWLOOP_SERVER_… variables, see docs/settings.md.
    """
    from ..server.run import serve, settle
    from ..server.settings import ServerSettings

    settings = Settings.from_env()
    set_up_logging(settings, Console(stderr=True))

    async def started(url: str) -> None:
        settle()
        click.echo(f"flowloop serves {url}")

    limits = read_settings(ServerSettings, "FLOWLOOP_SERVER_")
    await serve(_database(db, settings), host=host, port=port, settings=limits, started=started)


@flowloop.command()
@click.argument("targets", metavar="FILE[:FLOW]...", nargs=-1, required=True, type=click.Path())
@click.option("--concurrency", default=200, show_default=True, type=click.IntRange(1), help="Flow runs at once.")
@click.option("--label", "labels", multiple=True, help="Take the runs that have this label; repeatable.")
@click.option("--schedules", is_flag=True, help="Plan runs after the schedules of flows, where no server does.")
@click.option("--isolate", is_flag=True, help="Run each flow run in a process of its own.")
@click.option(
    "--once", is_flag=True, help="Take one flow run that is ready, run it, and end: 1 if it is not successful."
)
@click.option("--run", "flow_run_id", metavar="ID", help="With --once: this flow run, whoever has it.")
@backend_option
def worker(
    targets: tuple[str, ...],
    concurrency: int,
    labels: tuple[str, ...],
    schedules: bool,
    isolate: bool,
    once: bool,
    flow_run_id: str | None,
    backend: str | None,
) -> None:
    """Run what others create, or a schedule plans.

    Takes flow runs of these flows that are ready, until Ctrl-C or SIGTERM. The flows are registered first if they are
    new or changed, so their schedules count. A signal lets what runs go on for a while, and hands over the rest; a
    second one hands it over at once. A flow run whose worker died is run in a process of its own.
    """
    if flow_run_id is not None and not once:
        raise FlowloopError("--run says which flow run --once takes: give both")
    settings = settings_for(backend)
    if schedules and (once or not has_database(settings.default_backend_url)):
        raise FlowloopError("--schedules is for workers that stay and have the database open; a server plans by itself")
    set_up_logging(settings, Console(stderr=True))
    # if loading its flow ends this process, it has died of the flow run
    taken = None if flow_run_id is None else _claimed(flow_run_id, settings)
    try:
        found = [load_flow(target) for target in targets]  # while there is no loop, so that Ctrl-C ends it
    except FlowloopError as error:
        if taken is None:
            raise
        sys.exit(_work_once(_refusing(error), taken, labels, settings))
    flows = {flow.name: flow for flow in found}
    if once:
        sys.exit(_work_once(flows, taken, labels, settings))
    of_names = {flow.name: target for flow, target in zip(found, targets, strict=True)}
    isolation = Isolation(of_names, settings.default_backend_url, everything=isolate)
    _work(flows, concurrency, labels, settings, isolation, schedules)


def _refusing(error: FlowloopError) -> FlowLoader:
    """Find no flow, so that its run becomes Failed with the reason."""

    def refuse(_: FlowRunReservation) -> Flow:
        raise error

    return refuse


@as_async
async def _work(
    flows: dict[str, Flow],
    concurrency: int,
    labels: tuple[str, ...],
    settings: Settings,
    isolation: Isolation,
    schedules: bool,
) -> None:
    async with opened(settings, schedules=schedules) as open_backend:
        for flow in flows.values():
            await register_flow(flow, open_backend, settings=settings)
        taking = Worker(
            open_backend, flows, concurrency=concurrency, labels=labels, settings=settings, isolation=isolation
        )
        with _stopped_by_signals(taking, settings):
            click.echo(f"flowloop works on {', '.join(flows)} in {open_backend.url}")
            await taking.run()


@as_async
async def _claimed(flow_run_id: str, settings: Settings) -> FlowRunReservation:
    """Take a flow run, whoever has it."""
    async with opened(settings) as backend:
        info = await backend.get_flow_run_info(flow_run_id)
        name = (await backend.find_flow_run(flow_run_id)).flow_name
        claim = await backend.claim_flow_run(
            flow_run_id, new_owner(), lease_seconds=settings.lease_seconds, takeover=True
        )
        return FlowRunReservation(flow_run_id, info.flow_id, name, False, claim)


@as_async
async def _work_once(
    flows: dict[str, Flow] | FlowLoader, taken: FlowRunReservation | None, labels: tuple[str, ...], settings: Settings
) -> int:
    """Run one flow run, and return the exit code."""
    async with opened(settings) as backend:
        for flow in flows.values() if taken is None and isinstance(flows, dict) else ():
            await register_flow(flow, backend, settings=settings)
        taking = Worker(backend, flows, labels=labels, settings=settings, grace=30.0 if taken is None else 0.0)
        with _stopped_by_signals(taking, settings):
            ran = await taking.run_one(taken)
        if ran is None:
            if taken is not None:
                return LEFT
            click.echo(f"no flow run of {', '.join(flows) if isinstance(flows, dict) else ''} is ready")
            return 0
        state = await backend.get_flow_run_state(ran)
        return 0 if state.is_successful() or not state.is_finished() else 1


@contextmanager
def _stopped_by_signals(taking: Worker, settings: Settings) -> Iterator[None]:
    stops = 0

    def stop() -> None:
        nonlocal stops
        stops += 1
        rest = "at once" if stops > 1 else f"within {taking.grace:g} s, or at once if asked again"
        click.echo(f"flowloop: asked to stop: what has not ended is handed over {rest}", err=True)
        taking.stop(at_once=stops > 1)
        ending_within(
            2 * settings.cancel_grace + (0 if stops > 1 else taking.grace),
            "what it ran is free for other workers when its leases have run out",
        )

    with handling((signal.SIGINT, signal.SIGTERM), stop):
        yield


@flowloop.group(name="db")
def database() -> None:
    """Look after a database."""


@database.command()
@_db_option
@as_async
async def upgrade(db: str | None) -> None:
    """Bring a database up to date.

    One that an earlier flowloop wrote gets the tables of this one.
    """
    from ..store.migrations import upgrade as migrate

    before, now = await migrate(_database(db, Settings.from_env()))
    click.echo(f"at version {now} already" if before == now else f"upgraded from {before or 'nothing'} to {now}")


@database.command()
@click.option("--older-than", required=True, metavar="AGE", help="For instance 30d, 12h, 90m or 45s.")
@_db_option
@as_async
async def prune(older_than: str, db: str | None) -> None:
    """Delete what is older than AGE.

    Runs that finished, and records that were last used, longer ago; and the results that only they named, in the places
    that FLOWLOOP_HOME, FLOWLOOP_RESULTS and FLOWLOOP_TRUSTED_RESULTS name.
    """
    from ..store import Store

    age = length(older_than)
    async with Store(_database(db, Settings.from_env())) as store:
        deleted = await store.prune(age)
    left = deleted.pop("results_left")
    for table, count in deleted.items():
        click.echo(f"{table}: {count} deleted")
    if left:
        click.echo(f"results: {left} left: other runs have them, or they are in places that no setting names")


@database.command()
@click.argument("name")
@click.option("--read-only", is_flag=True, help="The key may read, and write nothing.")
@click.option(
    "--may",
    type=click.Choice(["answer", "run", "admin"]),
    help="The key may read, and beside that only answer what waits, or also start, cancel and restart runs; or "
    "everything. Else it may do all but what is for administrators: keys, secrets, notifications, limits, deleting.",
)
@click.option("--expires", metavar="AGE", help="It ends after so long: 30d, 12h, 90m or 45s; never by default.")
@_db_option
@as_async
async def create_key(name: str, read_only: bool, may: str | None, expires: str | None, db: str | None) -> None:
    """Make an API key, and print it.

    It is shown this once. The client sends it when it is in FLOWLOOP_API_KEY.
    """
    if read_only and may:
        raise FlowloopError("a key that is --read-only may not also --may something: give one of them")
    from ..store import ANYONE, Store

    lives = None if expires is None else length(expires)
    async with Store(_database(db, Settings.from_env())) as store:
        scopes = ["read"] if read_only else ["read", may or "write"]
        expires_at = None if lives is None else store.clock.now() + lives
        created = await store.create_api_key(ANYONE, name=name, scopes=scopes, expires_at=expires_at)
    click.echo(created["key"])


@database.command()
@json_option
@_db_option
@as_async
async def keys(as_json: bool, db: str | None) -> None:
    """List the API keys.

    What each allows, until when, and when it was last used.
    """
    from ..store import ANYONE, Store

    async with Store(_database(db, Settings.from_env())) as store:
        rows = await store.list_api_keys(ANYONE)
    if as_json:
        print_json(*rows)
        return
    for row in rows:
        until = f"until {_minute(row['expires_at'])}" if row["expires_at"] else "for ever"
        used = _minute(row["last_used_at"]) if row["last_used_at"] else "never"
        click.echo(safe(f"{row['id']}  {row['name']}  {', '.join(row['scopes'])}  {until}  last used {used}"))


def _minute(moment: datetime.datetime) -> str:
    return moment.astimezone().isoformat(sep=" ", timespec="minutes")


@database.command()
@click.argument("key")
@_db_option
@as_async
async def revoke_key(key: str, db: str | None) -> None:
    """Delete an API key, and all that was made of it.

    KEY is its name or id. What it has open is closed within FLOWLOOP_SERVER_KEY_CACHE_SECONDS.
    """
    from ..store import ANYONE, Store

    async with Store(_database(db, Settings.from_env())) as store:
        found = [row for row in await store.list_api_keys(ANYONE) if key in (row["id"], row["name"])]
        if not found:
            raise FlowloopError(f"there is no API key {key!r}: see flowloop db keys")
        if len(found) > 1:
            raise FlowloopError(f"{len(found)} API keys are named {key!r}: give the id, see flowloop db keys")
        await store.delete_api_key(ANYONE, key_id=found[0]["id"])
    click.echo(f"revoked {safe(found[0]['name'])}")
