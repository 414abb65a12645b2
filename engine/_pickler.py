"""How values and bodies are pickled: by cloudpickle, which also takes lambdas and classes defined in a script."""

from __future__ import annotations

import io
from typing import Any

import cloudpickle

__all__ = ["Pickler", "dumps"]

_NOTES = "__msgspec_cache__"
"""Where msgspec keeps what it knows of a class that it has looked at: a parameter's type, for instance."""


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles classes without the notes of msgspec, which cannot travel, and which it makes anew where they are not."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type) and _NOTES in vars(obj):
            delattr(obj, _NOTES)
        return super().reducer_override(obj)


def dumps(value: Any) -> bytes:
    """Return a value as a pickle."""
    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()
