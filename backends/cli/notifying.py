"""The commands that say of what people are told, and where."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import click
import msgspec

from ...engine.backend import NotificationRule
from ...engine.errors import FlowloopError
from .common import as_async, backend_option, complete_flow, json_option, length, opened, print_json, settings_for
from .display import safe

__all__ = ["notify"]


@click.group("notify", invoke_without_command=True)
@backend_option
@json_option
@click.pass_context
def notify(ctx: click.Context, backend: str | None, as_json: bool) -> None:
    """Show, and set, of what people are told.

    On Slack, by e-mail or at a webhook.
    """
    if ctx.invoked_subcommand is None:
        _show(backend, as_json)


@as_async
async def _show(backend: str | None, as_json: bool) -> None:
    async with opened(settings_for(backend), to_look=True) as open_backend:
        found = await open_backend.list_notifications()
    for rule in found:
        _told(rule, as_json)
    if not found and not as_json:
        click.echo(f"Nobody is told of anything in {open_backend.url}.")


def _told(rule: NotificationRule, as_json: bool) -> None:
    if as_json:
        print_json(rule)
        return
    of = "" if rule.flow is None else f" of {rule.flow}"
    click.echo(safe(f"{rule.name}: {', '.join(rule.events)}{of} by {rule.kind} to {_without_path(rule)}"))


def _without_path(rule: NotificationRule) -> str:
    """Return where a rule sends, without what lets anybody send there."""
    if rule.kind == "email":
        return rule.target
    scheme, _, rest = rule.target.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}/…"


@notify.command("add")
@click.argument("name")
@click.option(
    "--on", "events", metavar="EVENT", multiple=True, required=True,
    help="A state of flow runs, as Failed, or late, stuck or paused; repeatable.",
)  # fmt: skip
@click.option("--webhook", metavar="URL", help="Post a JSON document there.")
@click.option("--slack", metavar="URL", help="Post to this incoming webhook of Slack.")
@click.option("--email", metavar="ADDRESS", help="Send it there; the server needs FLOWLOOP_SERVER_SMTP_URL.")
@click.option("--flow", metavar="NAME", shell_complete=complete_flow, help="Only for runs of this flow.")
@click.option("--after", metavar="LENGTH", help="After how long a run is late, or stuck, as in 10m. Else 1m.")
@backend_option
@json_option
@as_async
async def add(
    name: str,
    events: tuple[str, ...],
    webhook: str | None,
    slack: str | None,
    email: str | None,
    flow: str | None,
    after: str | None,
    backend: str | None,
    as_json: bool,
) -> None:
    """Tell people of what happens to flow runs.

    From now on; a rule of the same NAME is replaced. The server sends it, or an application with a Notifier: each event
    once.
    """
    given = {"webhook": webhook, "slack": slack, "email": email}
    chosen = [(kind, target) for kind, target in given.items() if target is not None]
    if len(chosen) != 1:
        raise FlowloopError("give one of --webhook, --slack and --email")
    seconds = None if after is None else length(after).total_seconds()
    rule = NotificationRule(name, *chosen[0], list(events), flow, seconds)
    async with opened(settings_for(backend)) as open_backend:
        await open_backend.set_notification(rule)
    _told(rule, as_json)


@notify.command("remove")
@click.argument("name")
@backend_option
@json_option
@as_async
async def remove(name: str, backend: str | None, as_json: bool) -> None:
    """Tell people no more of what a rule says."""
    async with opened(settings_for(backend)) as open_backend:
        await open_backend.delete_notification(name)
    if as_json:
        print_json({"name": name})
    else:
        click.echo(safe(f"{name} is removed"))


@notify.command("test")
@click.argument("name")
@backend_option
@json_option
@as_async
async def test(name: str, backend: str | None, as_json: bool) -> None:
    """Send a message as this rule would, from here."""
    from ...engine.settings import read_settings
    from ..notifier import Sender
    from ..server.settings import ServerSettings

    async with opened(settings_for(backend)) as open_backend:
        rules = {rule.name: rule for rule in await open_backend.list_notifications()}
    if name not in rules:
        raise FlowloopError(f"there is no notification {name!r}; there are: {', '.join(rules) or 'none'}")
    rule, limits = rules[name], read_settings(ServerSettings, "FLOWLOOP_SERVER_")
    note: dict[str, Any] = {
        **msgspec.structs.asdict(rule),
        "id": str(uuid.uuid4()),
        "rule": name,
        "event": rule.events[0],
        "message": "This is a test.",
        "happened": datetime.datetime.now(datetime.UTC),
        "flow_run_id": str(uuid.UUID(int=0)),
        "flow_run_name": "a-test",
        "flow_name": rule.flow or "flowloop",
    }
    await Sender(smtp_url=limits.smtp_url, mail_from=limits.mail_from, page=limits.page_url).send(note)
    if as_json:
        print_json({"name": name})
    else:
        click.echo(safe(f"{name}: sent to {_without_path(rule)}"))
