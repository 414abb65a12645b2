"""A value that is not in this process: it stayed where a body made it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

__all__ = ["Part", "Parts", "Remote"]


class Remote:
    """A value that stays at the place where a body made it; let go of with the last reference to this.

    Args:
        - held: what the place knows it by
    """

    __slots__ = ("__weakref__", "held", "parts")

    def __init__(self, held: Any) -> None:
        self.held = held
        self.parts: Parts | None = None
        """Its elements, once the place was asked for them, because they are mapped over."""

    def __repr__(self) -> str:
        return f"<a value that stays where it was made: {self.held!r}>"


class Part(NamedTuple):
    """An element of a value that stays elsewhere, as far as it is not taken out of it there.

    Args:
        - whole: the value
        - number: which of its elements
    """

    whole: Remote
    number: int


class Parts(Sequence[Remote]):
    """The elements of a value that stays elsewhere.

    Args:
        - whole: the value
        - width: how many there are
    """

    def __init__(self, whole: Any, width: int) -> None:
        self._whole = whole
        self._width = width

    def __len__(self) -> int:
        return self._width

    @overload
    def __getitem__(self, index: int) -> Remote: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Remote]: ...
    def __getitem__(self, index: int | slice) -> Remote | Sequence[Remote]:
        numbers = range(self._width)[index]
        if isinstance(numbers, range):
            return [Remote(Part(self._whole, number)) for number in numbers]
        return Remote(Part(self._whole, numbers))
