"""The program of a job: runs the body that it finds in the store, and leaves the answer there.

``python -m flowloop.engine.executors._job_worker`` with the variable ``FLOWLOOP_JOB``. What the body prints goes to
stdout as it is; what it logs, and when it ended, as lines of JSON. SIGTERM stops the body.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from ..result import Result, ResultNotFound
from ..serialization import decode_state
from ._heard import Speaker, heard
from ._travel import Answer, answer_to, written
from .jobs import versions

__all__ = ["run"]


class _Stopped(BaseException):
    """The job was told to stop."""


class _BegunBeforeError(Exception):
    """The body began before, and is not run again."""


class _Body(Speaker):
    """A body that runs here.

    Args:
        - begin: called when it begins
        - write: writes a line
    """

    def __init__(self, begin: Callable[[], None], write: Callable[[str], Any]) -> None:
        self._begin = begin
        self._write = write
        self._lock = threading.Lock()

    def tell(self, kind: str, said: Any = None) -> None:
        """Write it, from any thread."""
        if kind == "logged":
            said = {name: value for name, value in vars(pickle.loads(said)).items() if _is_plain(value)}  # noqa: S301
        text = said if kind == "printed" else json.dumps({"flowloop": [kind, said]}) + "\n"
        with self._lock:
            self._write(text)

    def began(self) -> None:
        """Leave a mark, unless there is one, and say so."""
        self._begin()
        self.tell("began")

    def ended(self, seconds: float) -> None:
        """Say so."""
        self.tell("ended", seconds)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def run(about: dict[str, Any], write: Callable[[str], Any]) -> None:
    """Run a body, and store its answer.

    Args:
        - about: where the ``request`` is stored, whether the body ``may_rerun``, the ``home`` of its run, the
            ``levels`` of the loggers and the ``versions`` there
        - write: writes what the body prints and logs, and what the place hears of it
    """
    request = decode_state({"type": "Success", "_result": about["request"]})._result
    folder = str(request.location).removesuffix("request")

    def store(part: str, value: Any) -> None:
        asyncio.run(_written(request, folder + part, value))

    def begin() -> None:
        if not about["may_rerun"] and asyncio.run(request.exists(folder + "begun")):
            raise _BegunBeforeError
        store("begun", True)

    try:
        answer = _answer(about, request, _Body(begin, write))
    except _BegunBeforeError:
        answer = Answer("lost", None, "it had begun in a job that is gone since; it is not run twice")
    store("answer", written(answer))


async def _written(request: Result, location: str, value: Any) -> None:
    await request.at(location).write(value)


def _answer(about: dict[str, Any], request: Result, body: _Body) -> Answer:
    for what, version in versions().items():
        own = about["versions"][what]
        if version != own:
            return Answer("refused", None, f"its job has {what} {version}, and this process {own}: use the same")
    try:
        frame = asyncio.run(request.read(str(request.location))).value
    except ResultNotFound:
        return Answer("lost", None, "its request is not in the store any more")
    try:
        with heard(body, about["home"], about["levels"]):
            answer = answer_to(frame, body)
    except _Stopped:
        return _CANCELLED
    return _CANCELLED if isinstance(answer.content, _Stopped) else answer


_CANCELLED = Answer("error", asyncio.CancelledError())


def main() -> None:
    """Run the body that the environment names."""
    about = json.loads(os.environ["FLOWLOOP_JOB"])
    out = sys.stdout

    def stop(number: int, frame: Any) -> NoReturn:
        raise _Stopped

    def write(text: str) -> None:
        out.write(text)
        out.flush()

    signal.signal(signal.SIGTERM, stop)
    run(about, write)


if __name__ == "__main__":
    main()
