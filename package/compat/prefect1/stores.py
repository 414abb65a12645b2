"""Results that are read and written without ``await``, and those of old files, whose methods are plain functions."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

import anyio.to_thread

from ...engine import result, results
from .objects import waits

__all__ = [
    "AzureResult",
    "ConstantResult",
    "GCSResult",
    "LocalResult",
    "PrefectResult",
    "Result",
    "S3Result",
    "SecretResult",
]

_METHODS = ("read", "write", "exists")


class Result(result.Result):
    """A result of one's own: its `read`, `write` and `exists` may be plain functions, which run in a thread."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in _METHODS:
            method = vars(cls).get(name)
            if inspect.isfunction(method) and not inspect.iscoroutinefunction(method):
                setattr(cls, name, _in_thread(method))

    read = waits(result.Result.read, "Result.read")
    write = waits(result.Result.write, "Result.write")
    exists = waits(result.Result.exists, "Result.exists")


def _in_thread(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return method(self, *args, **kwargs)
        return anyio.to_thread.run_sync(functools.partial(method, self, *args, **kwargs))

    return called


def _waiting(own: type[result.Result]) -> Any:
    methods = {name: waits(getattr(own, name), f"{own.__name__}.{name}") for name in _METHODS}
    made: Any = type(own.__name__, (own,), {"__module__": __name__, "__doc__": own.__doc__, **methods})
    made.wire_type, made.wire_fields = own.wire_type, own.wire_fields
    return made


AzureResult = _waiting(results.AzureResult)
ConstantResult = _waiting(results.ConstantResult)
GCSResult = _waiting(results.GCSResult)
LocalResult = _waiting(results.LocalResult)
PrefectResult = _waiting(results.PrefectResult)
S3Result = _waiting(results.S3Result)
SecretResult = _waiting(results.SecretResult)
