"""The result of a parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import msgspec

from ..plain import plain
from .prefect import PrefectResult

__all__ = ["TypedResult"]


class TypedResult(PrefectResult):
    """A value in the state itself, which comes back as the type it had.

    Args:
        - restored: a function that returns the value of what JSON made of it
    """

    reads_kinds = (PrefectResult,)

    def __init__(self, restored: Callable[[Any], Any]) -> None:
        super().__init__()
        self._restored = restored

    async def read(self, location: str) -> Self:
        """Return a result with the value of a JSON text.

        Raises:
            - SerializationError: if it is none
            - FlowDefinitionError: if its value is of another type
        """
        new = await super().read(location)
        new.value = self._restored(new.value)
        return new

    async def write(self, value: Any, /, **kwargs: Any) -> Self:
        """Return a result with the value and its JSON text.

        Raises:
            - SerializationError: if JSON cannot carry the value
        """
        new = self.copy()
        new.value, new.location = value, msgspec.json.encode(plain(value)).decode()
        return new


TypedResult.wire_type = PrefectResult.wire_type  # to others it is that
