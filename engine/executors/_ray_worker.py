"""What runs on a Ray worker: a body, and what is heard of it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import suppress
from typing import Any

from .._run import mapping
from ._heard import Speaker, heard
from ._put import LARGE
from ._travel import Answer, answer_to, written

__all__ = ["item", "run", "size", "width"]


class _Body(Speaker):
    """A body that runs here."""

    def __init__(self, name: str, ears: Any) -> None:
        self._name = name
        self._ears = ears
        self._last: Any = None
        self._lock = threading.Lock()
        self._told = 0

    def tell(self, kind: str, said: Any = None) -> None:
        """Tell the actor that the run listens to, from any thread; what is told last may arrive first."""
        with self._lock:
            self._last = self._ears.tell.remote((self._name, self._told, kind, said))
            self._told += 1

    def began(self) -> None:
        """Say so."""
        self.tell("began")

    def stored(self, result: bytes) -> None:
        """Say where."""
        self.tell("stored", result)

    def ended(self, seconds: float) -> None:
        """Say so."""
        self.tell("ended", seconds)

    def finish(self) -> None:
        """Wait until everything was heard: the result goes another way, and would overtake it."""
        import ray
        from ray.exceptions import RayActorError

        self.tell("over")
        with suppress(RayActorError):  # nobody hears it any more
            ray.get(self._last)


def run(frame: bytes, about: dict[str, Any], ears: Any, *values: Any) -> tuple[bytes | None, Any]:
    """Run a body, and return its answer as a pickle, or None and the result where that is to stay here.

    Args:
        - frame: the request
        - about: the ``name`` of its job, the ``home`` of its run, the ``levels`` of its loggers, and whether its result
            ``stays``
        - ears: the actor that hears of it
        - values: the inputs that lie here
    """
    body = _Body(about["name"], ears)
    try:
        with heard(body, about["home"], about["levels"]):
            answer = answer_to(frame, body, values)
        body.finish()
    except KeyboardInterrupt:  # how Ray stops a body
        answer = Answer("error", asyncio.CancelledError())
    if isinstance(answer.content, KeyboardInterrupt):
        answer = Answer("error", asyncio.CancelledError())
    if about["stays"] and answer.kind == "value" and size(answer.content) >= LARGE:
        return None, answer.content
    return written(answer), None


def width(value: Any) -> int | str:
    """Return how many elements a value has, or why it cannot be mapped over."""
    return len(value) if mapping.is_sequence(value) else mapping.why_not(value)


def item(value: Any, number: int) -> Any:
    """Return an element of a value."""
    return mapping.element(value, number)


def size(value: Any, depth: int = 3) -> int:
    """Return about how many bytes a value has; of many elements some are looked at."""
    import sys

    found = getattr(value, "nbytes", None)
    if isinstance(found, int):
        return found
    own = sys.getsizeof(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else ()
    some = list(itertools.islice(parts, _SOME)) if depth else []
    return own + (sum(size(one, depth - 1) for one in some) * len(parts) // len(some) if some else 0)


_SOME = 10
