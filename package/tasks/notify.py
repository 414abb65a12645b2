"""Telling people: a message to Slack, from a task or from a state handler."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from ..engine.context import context
from ..engine.errors import FlowloopError
from ..engine.masking import hide, masked
from ..engine.state import State
from ..engine.task import task

__all__ = ["post_to_slack", "slack_notifier"]

WEBHOOK = "SLACK_WEBHOOK_URL"
"""The secret that is used where none is named."""


async def _post(url: str, text: str) -> None:
    import httpx

    async with httpx.AsyncClient(timeout=30) as client:
        (await client.post(url, json={"text": text})).raise_for_status()


@task(name="post to slack")
async def post_to_slack(text: str, webhook_url: str) -> None:
    """Post a message to a webhook of Slack, or of anything that takes the same.

    Args:
        - text: the message
        - webhook_url: the URL, which is a secret: ``Secret("SLACK_WEBHOOK_URL")``
    """
    await _post(webhook_url, text)


def slack_notifier(
    *, only_states: Iterable[type[State]] = (), ignore_states: Iterable[type[State]] = (), webhook_secret: str = WEBHOOK
) -> Callable[[Any, State, State], Any]:
    """Return a state handler that posts each new state to Slack. A post that fails is told in the log, and no more.

    Args:
        - only_states: which states to tell of, with their subclasses; all if there are none
        - ignore_states: which not to tell of
        - webhook_secret: the name of the secret that is the URL: under ``secrets`` in the context, else in the
            environment variable ``FLOWLOOP_SECRET__`` and its name

    Example:

        ```python
        Flow("nightly", state_handlers=[slack_notifier(only_states=[Failed])])
        ```
    """
    only, ignored = tuple(only_states), tuple(ignore_states)

    async def tell(tracked: Any, old: State, new: State) -> None:
        if isinstance(new, ignored) or (only and not isinstance(new, only)):
            return
        message = f": {masked(str(new.message))}" if new.message else ""
        try:
            await _post(webhook_url(webhook_secret), f"{tracked.name} is {type(new).__name__}{message}")
        except Exception as error:
            context.logger.warning(f"Slack was not told that {tracked.name} is {type(new).__name__}: {error!r}")

    return tell


def webhook_url(secret: str) -> str:
    """Return the URL that a secret holds."""
    found = (context.get("secrets") or {}).get(secret) or os.environ.get(f"FLOWLOOP_SECRET__{secret}")
    if not found:
        raise FlowloopError(f"secret {secret!r} was not found: set the environment variable FLOWLOOP_SECRET__{secret}")
    return str(hide(found))
