"""Secrets: values that a run needs and that nothing may write down."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from .context import context, flow_scope
from .errors import BackendError, FlowloopError
from .masking import hide
from .results import SecretResult
from .task import Task

__all__ = ["EnvVarSecret", "Secret", "SecretNotFound"]

_PREFIX = "FLOWLOOP_SECRET__"


class SecretNotFound(FlowloopError, ValueError):
    """A secret is nowhere where it was looked for."""


class Secret(Task[..., str]):
    """A task whose result is a secret: it is never stored, and asked for anew when a run is continued elsewhere.

    It is looked for under ``secrets`` in the run context, then in the environment variable ``FLOWLOOP_SECRET__`` and
    its name, then among the secrets that the backend of a recorded run keeps (``flowloop secrets set``).

    Args:
        - name: its name; None where the task is called with it
        - kwargs: as for `Task`

    Example:

        ```python
        with Flow("mail") as flow:
            send(password=Secret("SMTP_PASSWORD"))
        ```
    """

    reruns_on_restart = True
    travels = False

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        self.secret_name = name
        super().__init__(name=name, checkpoint=False, result=SecretResult(self), **kwargs)

    async def run(self, name: str | None = None) -> Any:
        """Return the secret.

        Args:
            - name: its name; the one that the task was made with if None

        Raises:
            - SecretNotFound: if it is nowhere
        """
        name = self._named(name)
        given = context.get("secrets") or {}
        if name in given:
            return hide(given[name])
        variable = _PREFIX + name
        if variable in os.environ:
            return hide(os.environ[variable])
        kept, why = await self._kept(name)
        if kept is not None:
            return hide(kept)
        raise SecretNotFound(
            f"secret {name!r} was not found: put it under 'secrets' in the run context, "
            f"or into the environment variable {variable}{why}"
        )

    def _named(self, name: str | None) -> str:
        if (name := name or self.secret_name) is None:
            raise SecretNotFound(
                f"task {self.name!r} was not told which secret to look for: make or call it with a name"
            )
        return name

    async def _kept(self, name: str) -> tuple[Any, str]:
        """Return the secret as the backend keeps it, or None and what there is to say of the backend."""
        backend = flow_scope.get().backend
        if backend is None:
            return None, ""
        try:
            kept = await backend.get_secret(name)
        except BackendError as error:
            return None, f". The backend was asked, too: {error}"
        return kept, f", or have it kept: flowloop secrets set {name}"


class EnvVarSecret(Secret):
    """A secret that is the value of an environment variable.

    Args:
        - env_var: the variable; called as the task if None, if that has a name, and else given when the task is called
        - cast: a function that makes the secret of the text
        - raise_if_missing: whether it is an error if there is no such variable; otherwise the secret is None
        - name: the name of the task; that of the variable if None
        - kwargs: as for `Task`
    """

    def __init__(
        self,
        env_var: str | None = None,
        cast: Callable[[str], Any] | None = None,
        raise_if_missing: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.env_var = env_var or name
        self.cast = cast
        self.raise_if_missing = raise_if_missing
        super().__init__(name or env_var, **kwargs)
        self.secret_name = self.env_var

    async def run(self, name: str | None = None) -> Any:
        """Return the secret.

        Args:
            - name: the variable; the one that the task was made with if None

        Raises:
            - SecretNotFound: if the variable has to be there, and is not
        """
        variable = self._named(name)
        text = os.environ.get(variable)
        if text is None and self.raise_if_missing:
            raise SecretNotFound(f"secret {self.name!r} was not found: set the environment variable {variable}")
        if text is None:
            return None
        hide(text)
        return text if self.cast is None else hide(self.cast(text))
