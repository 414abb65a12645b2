"""What all commands share: options, completion, an event loop of their own, and how they print."""

from __future__ import annotations

import datetime
import difflib
import functools
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, ParamSpec, TypeVar

import click
import msgspec
from click.shell_completion import CompletionItem

from ...engine.backend import Backend, FlowRunFilter, FlowRunSummary, connect
from ...engine.errors import BackendRejected, FlowloopError
from ...engine.flow_loop import run_sync
from ...engine.lifecycle import LIFECYCLE
from ...engine.settings import Settings

__all__ = [
    "agreed",
    "answer_to",
    "as_async",
    "backend_option",
    "complete_flow",
    "complete_run",
    "filter_of",
    "filter_options",
    "find",
    "has_database",
    "interrupted",
    "json_option",
    "length",
    "moment",
    "opened",
    "pairs",
    "print_json",
    "run_argument",
    "settings_for",
]

P = ParamSpec("P")
T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])
_Function = Callable[..., Any]

_INTERRUPTED = 130
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def as_async(command: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Run a command on an event loop of its own; Ctrl-C cancels it, and waits until it has ended."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return run_sync(command(*args, **kwargs), instead=f"await flowloop.{command.__name__}()")
        except KeyboardInterrupt:
            interrupted()
            raise

    return run


def interrupted() -> None:
    """End the process as one that was interrupted ends, with one line."""
    click.echo("flowloop: interrupted", err=True)
    sys.exit(_INTERRUPTED)


def answer_to(question: Callable[[], T]) -> T:
    """Ask a question, and return the answer; Ctrl-C ends the wait for it, which the event loop would put off.

    Raises:
        - KeyboardInterrupt: at Ctrl-C
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return question()
    except click.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def agreed(question: str) -> None:
    """Ask a question, and go on only where the answer is yes.

    Raises:
        - FlowloopError: if there is nobody to answer
    """
    try:
        answer_to(lambda: click.confirm(question, abort=True, err=True))
    except KeyboardInterrupt:
        click.echo(err=True)
        raise
    except click.Abort:
        if sys.stdin.isatty():
            raise
        click.echo(err=True)
        raise FlowloopError("nothing was done, as nobody said yes: --yes asks no question") from None


def settings_for(backend: str | None) -> Settings:
    """Return the settings of the environment, with the backend that an option names."""
    settings = Settings.from_env()
    return settings if backend is None else msgspec.structs.replace(settings, backend_url=backend)


def opened(settings: Settings, *, to_look: bool = False, schedules: bool = False) -> Backend:
    """Return the backend of the settings, to be opened with ``async with``.

    Args:
        - settings: say where it is
        - to_look: whether nothing is written there
        - schedules: whether runs are planned after schedules from here
    """
    url = settings.default_backend_url
    options: dict[str, Any] = {"read_only": True} if to_look else {"schedules": True} if schedules else {}
    return connect(url, settings=settings, **(options if has_database(url) else {}))


def has_database(url: str) -> bool:
    """Whether a backend has the database open itself."""
    return url.partition(":")[0].partition("+")[0].lower() in ("sqlite", "postgres", "postgresql")


async def find(backend: Backend, run: str) -> FlowRunSummary:
    """Return the flow run that a user names: by its name, its id, or the beginning of its id.

    Raises:
        - BackendRejected: if there is none; it says where it was looked for, and what has a similar name
    """
    try:
        return await backend.find_flow_run(run)
    except BackendRejected as error:
        close = difflib.get_close_matches(run, await _run_names(backend), 3)
        hint = f"did you mean {' or '.join(close)}?" if close else "`flowloop runs --all` lists what is there."
        raise BackendRejected(f"{str(error).rstrip('.')} in {backend.url}; {hint}") from error


# -- printing ------------------------------------------------------------------------------------------


def print_json(*documents: Any) -> None:
    """Print JSON, a document a line."""
    for document in documents:
        click.echo(msgspec.json.encode(document).decode())


# -- what people write ---------------------------------------------------------------------------------


_LONGEST = datetime.timedelta(days=100 * 365)


def length(text: str) -> datetime.timedelta:
    """Return a length of time that is written as in 30d, 12h, 90m or 45s."""
    found = re.fullmatch(r"(\d+)([dhms])", text.strip())
    if found is None:
        raise FlowloopError(f"an age is a number and one of d, h, m and s, as in 30d, not {text!r}")
    number, unit = float(found[1]), _UNITS[found[2]]
    if number > _LONGEST / datetime.timedelta(**{unit: 1}):
        raise FlowloopError(f"an age is at most {_LONGEST.days}d, and {text!r} is longer")
    return datetime.timedelta(**{unit: number})


def moment(text: str | None) -> datetime.datetime | None:
    """Return a moment that is written as a date, as a date and time, or as an age."""
    if text is None:
        return None
    now = datetime.datetime.now(datetime.UTC)
    if re.fullmatch(r"\d+[dhms]", text.strip()):
        return now - length(text)
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise FlowloopError(f"a moment is a date, a date and time, or an age as in 12h, not {text!r}") from error
    return found if found.tzinfo is not None else found.astimezone()


def pairs(params: tuple[str, ...]) -> dict[str, str]:
    """Return parameters that are written as KEY=VALUE."""
    found: dict[str, str] = {}
    for param in params:
        key, equals, value = param.partition("=")
        if not equals or not key:
            raise FlowloopError(f"a parameter is given as KEY=VALUE, not as {param!r}")
        if key in found:
            raise FlowloopError(f"parameter {key!r} is given twice")
        found[key] = value
    return found


# -- options -------------------------------------------------------------------------------------------

backend_option: Callable[[_Function], _Function] = click.option(
    "--backend",
    metavar="URL",
    help="Where runs are recorded: sqlite:///FILE, postgresql://… or http://HOST:PORT. "
    "Else FLOWLOOP_BACKEND_URL, else flowloop.db in FLOWLOOP_HOME (~/.flowloop).",
)
json_option: Callable[[_Function], _Function] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, in the shape that docs/cli.md describes."
)


def _completed(found: Callable[[Backend], Awaitable[Iterable[str]]]) -> Callable[..., list[CompletionItem]]:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        async def names() -> list[str]:
            async with opened(settings_for(ctx.params.get("backend")), to_look=True) as backend:
                return [name for name in await found(backend) if name.startswith(incomplete)]

        try:
            return [CompletionItem(name) for name in run_sync(names(), instead="await names()")]
        except FlowloopError:
            return []

    return complete


async def _run_names(backend: Backend) -> list[str]:
    return [run.name for run in await backend.list_flow_runs(50)]


async def _flow_names(backend: Backend) -> list[str]:
    return [flow.name for flow in await backend.list_flows()]


complete_run = _completed(_run_names)
complete_flow = _completed(_flow_names)
run_argument: Callable[[_Function], _Function] = click.argument("run", shell_complete=complete_run)


def filter_options(command: Command) -> Command:
    """Add the options that choose flow runs."""
    options = [
        click.option("--flow", metavar="NAME", shell_complete=complete_flow, help="Runs of this flow."),
        click.option(
            "--state",
            "states",
            multiple=True,
            metavar="STATE",
            type=click.Choice(sorted(LIFECYCLE), case_sensitive=False),
            help="Runs in this state, as Failed; repeatable.",
        ),
        click.option("--since", metavar="WHEN", help="Not created before: a date, a time, or an age as in 12h."),
        click.option("--until", metavar="WHEN", help="Created before."),
        click.option("--search", metavar="TEXT", help="Runs with this in their name, or in that of their flow."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def filter_of(
    flow: str | None,
    states: tuple[str, ...],
    since: str | None,
    until: str | None,
    search: str | None,
    due_before: datetime.datetime | None = None,
    parts: bool = True,
) -> FlowRunFilter:
    """Return the filter that the options make."""
    begin, end = moment(since), moment(until)
    return FlowRunFilter(
        flow=flow, states=states, since=begin, until=end, search=search, due_before=due_before, parts=parts
    )
