"""The result of a task for which nobody has named one."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import Any, Self

import msgspec

from ..result import Result
from ..serializers import Serializer
from ..settings import Settings
from ._stored import StoredResult
from .local import LocalResult
from .objects import AzureResult, GCSResult, ObjectResult, S3Result, results_at
from .prefect import PrefectResult

__all__ = ["INLINE_LIMIT", "DefaultResult", "default_result_in"]

INLINE_LIMIT = 10_000
"""Bytes of JSON up to which a value is stored in the state itself."""

_encode = msgspec.json.Encoder().encode


class DefaultResult(Result):
    """Stores a small plain value in the state itself, and any other one in a file, or in a bucket.

    A value is stored in the state if its JSON text has at most 10,000 bytes, and reading that gives the same value
    again, types included: None, booleans, numbers, text, and lists and dicts of these.

    Args:
        - dir: the folder of the files, or a bucket as in ``s3://bucket/folder``; what the settings say if None
        - location, serializer: as for `LocalResult`; with a location, every value goes to a file
    """

    reads_kinds = (LocalResult, S3Result, GCSResult, AzureResult)

    def __init__(
        self,
        dir: str | os.PathLike[str] | None = None,
        *,
        location: str | Callable[..., str] | None = None,
        serializer: Serializer | None = None,
    ) -> None:
        super().__init__(None, location, serializer)
        place = os.fspath(dir or Settings.from_env().results_place)
        self.dir = place if "://" in place else os.path.abspath(os.path.expanduser(place))
        self._files()  # which notes what is trusted

    async def write(self, value: Any, /, **kwargs: Any) -> Result:
        """Store a value.

        Returns:
            - Result: a `PrefectResult`, or one that says where the file or the object is
        """
        return self._carried(value) or await self._files().write(value, **kwargs)

    def _in_the_state(self, value: Any) -> Result | None:
        return self._carried(value) if type(self).write is DefaultResult.write else None

    def _carried(self, value: Any) -> Result | None:
        if self.location is None and self._location_function is None and survives_json(value):
            text = _encode(value)
            if len(text) <= INLINE_LIMIT:
                return PrefectResult(value, text.decode())
        return None

    def at(self, location: str | Callable[..., str] | None) -> Self:
        """Return a copy that is stored at `location`; see `Result.at`."""
        new = super().at(location)
        new._files()
        return new

    async def check_recorded(self, location: str) -> None:
        """Check that a file is to be read that a recorded state names; see `Result.check_recorded`."""
        await self._files().check_recorded(location)

    def expecting(self, stored: Result) -> Result:
        """Return what reads only what was written; see `Result.expecting`."""
        files = self._files()
        if not isinstance(stored, StoredResult) or type(stored) is type(files) is LocalResult:
            return files.expecting(stored)
        there = stored.copy()  # it lies elsewhere: the settings were others when it was written
        there.serializer = files.serializer
        return there

    async def read(self, location: str) -> Result:  # type: ignore[override]
        """Return a result with the value of a file."""
        return await self._files().read(location)

    async def exists(self, location: str, /, **kwargs: Any) -> bool:
        """Tell whether there is a file at `location`, its template filled from `kwargs`."""
        return await self._files().exists(location, **kwargs)

    @property
    def is_on_this_machine(self) -> bool:
        """Whether results are files."""
        return "://" not in self.dir

    def _files(self) -> LocalResult | ObjectResult:
        files: LocalResult | ObjectResult
        if not self.is_on_this_machine:
            files = results_at(self.dir, self.location, self.serializer)
            files._location_function = self._location_function
            return files
        files = LocalResult(self.dir, False, location=self.location, serializer=self.serializer)
        files._location_function = self._location_function
        return files


@functools.lru_cache(64)
def default_result_in(place: str) -> DefaultResult:
    """Return the one for this folder or bucket: a runner is made for each run, and looks a folder up but once."""
    return DefaultResult(place)


def survives_json(value: Any) -> bool:
    """Tell whether a value comes back from JSON as it was, and could be short enough to be stored in a state."""
    if type(value) is int:
        return -(2**63) <= value < 2**63
    room = INLINE_LIMIT
    waiting = [value]
    while waiting:
        value = waiting.pop()
        kind = type(value)
        if kind is str:
            room -= len(value)
            if not (value.isascii() or _is_text(value)):
                return False
        elif kind is int:
            if not -(2**63) <= value < 2**63:
                return False
        elif kind is float:
            if not math.isfinite(value):
                return False
        elif kind is list:
            room -= len(value)
            waiting += value if room >= 0 else ()
        elif kind is dict:
            room -= len(value)
            waiting += value.values() if room >= 0 else ()
            if room >= 0 and not all(type(key) is str and (key.isascii() or _is_text(key)) for key in value):
                return False
        elif kind is not bool and value is not None:
            return False
        if room < 0:
            return False
    return True


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # a surrogate
        return False
    return True
