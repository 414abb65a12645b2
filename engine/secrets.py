"""Secrets: values that a run needs and that nothing may write down."""

from __future__ import annotations

import os
from typing import Any

from .context import context
from .errors import FlowloopError
from .masking import hide
from .results import SecretResult
from .task import Task

__all__ = ["Secret"]

_PREFIX = "FLOWLOOP_SECRET__"


class Secret(Task[[], str]):
    """A task whose result is a secret: it is never stored, and asked for anew when a run is continued elsewhere.

    It is looked for under ``secrets`` in the run context, then in the environment variable ``FLOWLOOP_SECRET__`` and
    its name.

    Args:
        - name: its name
        - kwargs: as for `Task`

    Example:

        ```python
        with Flow("mail") as flow:
            send(password=Secret("SMTP_PASSWORD"))
        ```
    """

    reruns_on_restart = True
    travels = False

    def __init__(self, name: str, **kwargs: Any) -> None:
        self.secret_name = name
        super().__init__(name=name, checkpoint=False, result=SecretResult(self), **kwargs)

    async def run(self) -> Any:
        """Return the secret.

        Raises:
            - FlowloopError: if it is nowhere
        """
        given = context.get("secrets") or {}
        if self.secret_name in given:
            return hide(given[self.secret_name])
        variable = _PREFIX + self.secret_name
        if variable in os.environ:
            return hide(os.environ[variable])
        raise FlowloopError(
            f"secret {self.secret_name!r} was not found: put it under 'secrets' in the run context, "
            f"or into the environment variable {variable}"
        )
