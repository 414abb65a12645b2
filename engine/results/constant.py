"""A result that is known beforehand."""

from __future__ import annotations

from typing import Any, Self

from ..result import Result

__all__ = ["ConstantResult"]


class ConstantResult(Result, wire_type="ConstantResult"):
    """A value that is part of the flow; it is read as it is, and never written.

    Args:
        - value: the value
    """

    def __init__(self, value: Any = None) -> None:
        super().__init__(value)

    async def read(self, location: str | None = None) -> Self:
        """Return this result itself."""
        return self

    async def write(self, value: Any, /, **kwargs: Any) -> Self:
        """Refuse: a constant is read-only.

        Raises:
            - TypeError: always
        """
        raise TypeError("a ConstantResult is read-only; give the task a result that can be written")

    async def exists(self, location: str | None = None, /, **kwargs: Any) -> bool:
        """Return True: a constant is always there."""
        return True
