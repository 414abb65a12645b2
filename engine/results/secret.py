"""A result that is never stored, but asked for again."""

from __future__ import annotations

import inspect
from typing import Any, Self

from ..result import Result

__all__ = ["SecretResult"]


class SecretResult(Result, wire_type="SecretResult", wire_fields=("location", "secret_type")):
    """The value of a secret: what reads it runs the task again that knows it.

    Args:
        - secret_task: the task, whose ``run`` takes no arguments and returns the secret, sync or async
    """

    secret_task: Any = None

    def __init__(self, secret_task: Any) -> None:
        super().__init__()
        self.secret_task = secret_task
        self.secret_type = type(secret_task).__name__

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    async def read(self, location: str | None = None) -> Self:
        """Return a result with the secret, asked for anew."""
        if self.secret_task is None:
            raise TypeError(f"the secret {location!r} came as a document, so the task that reads it is not known here")
        value = self.secret_task.run()
        new = self.copy()
        new.value = await value if inspect.isawaitable(value) else value
        new.location = location
        return new

    async def write(self, value: Any, /, **kwargs: Any) -> Self:
        """Refuse: a secret is never written.

        Raises:
            - TypeError: always
        """
        raise TypeError("a SecretResult is never written; give the task checkpoint=False")

    async def exists(self, location: str | None = None, /, **kwargs: Any) -> bool:
        """Return True: the task is there to be asked."""
        return True
