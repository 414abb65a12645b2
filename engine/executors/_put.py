"""Large inputs, which are put on a cluster once, however many bodies take them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import anyio

from ..remote import Part, Remote
from ._travel import Gathered, Lying

__all__ = ["LARGE", "Inputs", "Put"]

LARGE = 64 * 1024
"""Bytes from which on an input is put on the cluster, instead of into each job, and a result may stay there."""

_SMALL = frozenset({type(None), bool, int, float})


class Inputs(NamedTuple):
    """The inputs of a job.

    Args:
        - kept: the inputs, with a place in them for each that lies on the cluster
        - lying: what the cluster knows these by
        - left: the numbers of those that bodies left there
    """

    kept: dict[str, Any]
    lying: list[Any]
    left: list[int]


class Put:
    """Puts large inputs on a cluster, and knows which lie there.

    Args:
        - put: puts a value there, and returns what the cluster knows it by
        - part: takes an element out of a value there, likewise
        - is_there: whether one still lies there
        - size: how many bytes a value has
    """

    def __init__(
        self,
        put: Callable[[Any], Awaitable[Any]],
        part: Callable[[Any, int], Any],
        is_there: Callable[[Any], bool],
        size: Callable[[Any], int],
    ) -> None:
        self._put = put
        self._part = part
        self._is_there = is_there
        self._size = size
        self._lying: dict[int, _Lying] = {}

    @asynccontextmanager
    async def lying(self, inputs: Mapping[str, Any]) -> AsyncIterator[Inputs]:
        """Hold the large ones of some inputs on the cluster."""
        found = Inputs({}, [], [])
        async with AsyncExitStack() as held:
            for name, value in inputs.items():
                if type(value) is Remote:
                    found.kept[name] = self._left(value, found)
                elif type(value) is list and any(type(one) is Remote for one in value):
                    found.kept[name] = Gathered(
                        [self._left(one, found) if type(one) is Remote else one for one in value]
                    )
                elif type(value) in _SMALL or self._size(value) < LARGE:
                    found.kept[name] = value
                else:
                    found.kept[name] = Lying(len(found.lying))
                    found.lying.append(await held.enter_async_context(self._held(value)))
            yield found

    def _left(self, value: Remote, found: Inputs) -> Lying:
        """Add a value that stayed there, or an element of one, to what a job needs."""
        number = len(found.lying)
        found.left.append(number)
        held = value.held
        found.lying.append(self._part(held.whole.held, held.number) if isinstance(held, Part) else held)
        return Lying(number)

    @asynccontextmanager
    async def _held(self, value: Any) -> AsyncIterator[Any]:
        entry = self._lying.setdefault(id(value), _Lying(value))
        entry.users += 1
        try:
            async with entry.lock:
                if entry.handle is None or not self._is_there(entry.handle):
                    entry.handle = await self._put(value)
            yield entry.handle
        finally:
            entry.users -= 1
            if not entry.users:
                self._lying.pop(id(value), None)


class _Lying:
    """A value that lies on the cluster as long as bodies need it."""

    def __init__(self, value: Any) -> None:
        self.value = value  # as long as it lives, nothing else has its id
        self.users = 0
        self.handle: Any = None
        self.lock = anyio.Lock(fast_acquire=True)
