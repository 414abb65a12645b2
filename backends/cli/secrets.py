"""The commands that set and list the secrets that a backend keeps."""

from __future__ import annotations

import sys

import click

from ...engine.errors import FlowloopError
from .common import answer_to, as_async, backend_option, json_option, opened, print_json, settings_for
from .display import safe

__all__ = ["secrets"]


@click.group("secrets", invoke_without_command=True)
@backend_option
@json_option
@click.pass_context
def secrets(ctx: click.Context, backend: str | None, as_json: bool) -> None:
    """Show, and set, the secrets that the backend keeps.

    They are encrypted, and for the `Secret` tasks of flows; their names alone are shown.
    """
    if ctx.invoked_subcommand is None:
        _list(backend, as_json)


@as_async
async def _list(backend: str | None, as_json: bool) -> None:
    async with opened(settings_for(backend), to_look=True) as open_backend:
        for name in await open_backend.list_secrets():
            if as_json:
                print_json({"name": name})
            else:
                click.echo(safe(name))


@secrets.command("set")
@click.argument("name")
@backend_option
@json_option
@as_async
async def set_secret(name: str, backend: str | None, as_json: bool) -> None:
    """Have the backend keep a secret.

    Its value is asked for, or read from the standard input. It is no argument, because arguments are seen by everybody
    on the machine, and stay in the history of the shell.

    \b
    Example:
      flowloop secrets set SMTP_PASSWORD < password.txt
    """  # noqa: D301 - click reads the character
    if sys.stdin.isatty():
        value = answer_to(lambda: str(click.prompt(name, hide_input=True, err=True)))
    else:
        value = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not value:
        raise FlowloopError(f"the secret {name!r} would be empty: to take it away, flowloop secrets remove {name}")
    await _set(name, value, backend, as_json)


@secrets.command("remove")
@click.argument("name")
@backend_option
@json_option
@as_async
async def remove(name: str, backend: str | None, as_json: bool) -> None:
    """Have the backend keep a secret no more."""
    await _set(name, None, backend, as_json)


async def _set(name: str, value: str | None, backend: str | None, as_json: bool) -> None:
    async with opened(settings_for(backend)) as open_backend:
        if value is None and name not in await open_backend.list_secrets():
            raise FlowloopError(f"there is no secret {name!r}: see flowloop secrets")
        await open_backend.set_secret(name, value)
    if as_json:
        print_json({"name": name})
    else:
        click.echo(safe(f"{name} is {'removed' if value is None else 'kept'}"))
