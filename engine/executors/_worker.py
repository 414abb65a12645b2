"""The process that runs bodies for `ProcessExecutor`: one at a time, until its input ends.

Both directions carry frames: eight bytes of length, then a pickle. In comes first what the process needs to find the
modules of the run, then one frame for each body. Out go what the body prints, what it logs, and last its answer.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import io
import logging
import logging.handlers
import operator
import os
import pickle
import queue
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import cloudpickle

from ..context import context as run_context
from ..context import values
from ..signals import PrefectSignal

__all__ = ["Answer", "ByName", "Request", "dumps", "main", "read_frame", "write_frame"]

_HEADER = struct.Struct("!Q")


class ByName(NamedTuple):
    """A body that is found under a name, rather than sent."""

    module: str
    qualname: str

    def resolve(self) -> Callable[..., Any]:
        """Return the function that the task of this name is made of."""
        task = operator.attrgetter(self.qualname)(importlib.import_module(self.module))
        function: Callable[..., Any] = task.fn
        return function


class Request(NamedTuple):
    """A body to be run."""

    body: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    context: dict[str, Any]
    log_levels: dict[str, int]


class Answer(NamedTuple):
    """What became of a body: ``value``, ``error``, ``unpicklable`` (the answer), or ``unknown`` (the body's name)."""

    kind: str
    content: Any
    detail: str = ""


def read_frame(stream: BinaryIO) -> bytes | None:
    """Return the next frame, or None at the end."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (length,) = _HEADER.unpack(header)
    frame = stream.read(length)
    return frame if len(frame) == length else None


def write_frame(stream: BinaryIO, frame: bytes) -> None:
    """Write a frame."""
    stream.write(_HEADER.pack(len(frame)))
    stream.write(frame)
    stream.flush()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Lets bodies mention the run context: it is the one there that they find in the other process."""

    def reducer_override(self, obj: Any) -> Any:
        return "context" if obj is run_context else super().reducer_override(obj)


def dumps(value: Any) -> bytes:
    """Return a value as a pickle that may contain functions."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(value)
    return buffer.getvalue()


class _Output:
    """Sends frames, from any thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, kind: str, frame: bytes) -> None:
        with self._lock:
            write_frame(self._stream, pickle.dumps(kind))
            write_frame(self._stream, frame)


class _Printed(io.TextIOBase):
    """Stands in for ``sys.stdout``, and sends what is printed line by line."""

    def __init__(self, output: _Output) -> None:
        self._output = output
        self._rest = ""

    def write(self, text: str) -> int:
        lines, newline, self._rest = (self._rest + text).rpartition("\n")
        if newline:
            self._output.send("printed", (lines + newline).encode())
        return len(text)

    def finish(self) -> None:
        if self._rest:
            self._output.send("printed", self._rest.encode())
            self._rest = ""


class _Logged(logging.handlers.QueueHandler):
    """Sends log records."""

    def enqueue(self, record: logging.LogRecord) -> None:
        frame = pickle.dumps(record)
        self.queue.send("logged", frame)  # type: ignore[attr-defined]


class _Input:
    """Reads frames in a thread, so that a process whose parent is gone ends even while it runs a body."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.is_busy = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while (frame := read_frame(self._stream)) is not None:
            self._frames.put(frame)
        if self.is_busy:
            os._exit(1)
        self._frames.put(None)

    def next(self) -> bytes | None:
        self.is_busy = False
        frame = self._frames.get()
        self.is_busy = True
        return frame


def _run(request: Request) -> Answer:
    try:
        body = request.body.resolve() if isinstance(request.body, ByName) else request.body
    except (ImportError, AttributeError) as error:
        return Answer("unknown", None, str(error))
    for name, level in request.log_levels.items():
        logging.getLogger(name).setLevel(level)
    values.set(request.context)
    try:
        value = body(*request.args, **request.kwargs)
        return Answer("value", asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value)
    except (Exception, PrefectSignal, asyncio.CancelledError) as error:
        return Answer("error", error, "".join(traceback.format_exception(error)))


async def _awaited(answer: Any) -> Any:
    return await answer


def _pickled(answer: Answer) -> bytes:
    try:
        frame = dumps(answer)
        if answer.kind == "error":
            pickle.loads(frame)  # noqa: S301 - many errors can be written, but not read
    except Exception as error:
        what = f"{type(answer.content).__module__}.{type(answer.content).__qualname__}"
        text = answer.detail or repr(answer.content)
        return dumps(Answer("unpicklable", (answer.kind, what, str(error)), text))
    return frame


def main() -> None:
    """Run bodies until the input ends."""
    output = _Output(os.fdopen(os.dup(1), "wb"))
    frames = _Input(os.fdopen(os.dup(0), "rb"))
    # what a body starts must not write between the frames: from here on, it writes to stderr
    os.dup2(2, 1)
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    printed = _Printed(output)
    sys.stdout = printed
    logging.getLogger().addHandler(_Logged(output))  # type: ignore[arg-type]
    paths = frames.next()
    if paths is None:
        return
    sys.path[:] = pickle.loads(paths)  # noqa: S301 - it comes from the process that started this one
    while (frame := frames.next()) is not None:
        try:
            request = pickle.loads(frame)  # noqa: S301
        except Exception as error:
            answer = Answer("unknown", None, f"{type(error).__name__}: {error}")
        else:
            answer = _run(request)
        printed.finish()
        output.send("answer", _pickled(answer))


if __name__ == "__main__":
    main()
