"""A result that is stored in the state itself."""

from __future__ import annotations

from typing import Any, Self

from ..errors import SerializationError
from ..result import Result
from ..serializers import JSONSerializer

__all__ = ["PrefectResult"]


class PrefectResult(Result, wire_type="PrefectResult"):
    """A value as JSON text, which is its location; so it travels in the state, and needs no place.

    For what is small, and what JSON can carry: a value comes back as JSON knows it, a tuple as a list.

    Args:
        - value: the value
        - location: its JSON text
    """

    serializer_default = JSONSerializer()

    def __init__(self, value: Any = None, location: str | None = None) -> None:
        super().__init__(value, location)

    def format(self, /, **kwargs: Any) -> Self:
        """Return a copy: a JSON text is no template."""
        return self.copy()

    async def read(self, location: str) -> Self:
        """Return a result with the value of a JSON text.

        Raises:
            - SerializationError: if it is none
        """
        new = self.copy()
        try:
            new.value = self.serializer.deserialize(location.encode())
        except SerializationError as error:
            raise SerializationError(
                f"the location of a PrefectResult is JSON text, not {location!r}: {error}"
            ) from error
        new.location = location
        return new

    async def write(self, value: Any, /, **kwargs: Any) -> Self:
        """Return a result with the value and its JSON text.

        Raises:
            - SerializationError: if JSON cannot carry the value
        """
        new = self.copy()
        new.location = self.serializer.serialize(value).decode()
        new.value = value
        return new

    async def exists(self, location: str, /, **kwargs: Any) -> bool:
        """Tell whether `location` is JSON text."""
        try:
            self.serializer.deserialize(location.encode())
        except SerializationError:
            return False
        return True
