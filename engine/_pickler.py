"""How values and bodies are pickled: by cloudpickle, which also takes lambdas and classes defined in a script."""

from __future__ import annotations

import io
from typing import Any, Protocol

import cloudpickle

__all__ = ["Pickler", "Sink", "dump", "dumps"]

_NOTES = "__msgspec_cache__"
"""Where msgspec keeps what it knows of a class that it has looked at: a parameter's type, for instance."""


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles classes without the notes of msgspec, which cannot travel, and which it makes anew where they are not."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type) and _NOTES in vars(obj):
            delattr(obj, _NOTES)
        return super().reducer_override(obj)


class Sink(Protocol):
    """What bytes can be written to."""

    def write(self, data: Any, /) -> int: ...


def dump(value: Any, file: Sink) -> None:
    """Pickle a value into a file: large buffers in it go there as they are, and are copied nowhere."""
    Pickler(file).dump(value)


def dumps(value: Any) -> bytes:
    """Return a value as a pickle."""
    buffer = io.BytesIO()
    dump(value, buffer)
    return buffer.getvalue()
