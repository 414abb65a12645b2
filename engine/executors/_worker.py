"""The process that runs bodies for `ProcessExecutor`: one at a time, until its input ends.

Both directions carry frames: eight bytes of length, then a pickle. In comes first what the process needs to find the
modules of the run, then two frames for each body: the levels of the loggers, and the body. Out go when the body began
and ended, what it prints, what it logs, and last its answer, each as two frames: its kind, and itself.
"""

from __future__ import annotations

import io
import logging
import logging.handlers
import os
import pickle
import queue
import signal
import struct
import sys
import threading
from contextlib import suppress
from typing import Any, BinaryIO

from ._travel import Told, run

__all__ = ["main", "read_frame", "write_frame"]

_HEADER = struct.Struct("!Q")


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


class _Output:
    """Sends frames, from any thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._writer: int | None = None
        self._was_interrupted = False

    def send(self, kind: str, frame: bytes) -> None:
        with self._lock:
            self._writer = threading.get_ident()
            try:
                write_frame(self._stream, pickle.dumps(kind))
                write_frame(self._stream, frame)
            finally:
                self._writer = None
                is_interrupted, self._was_interrupted = self._was_interrupted, False
        if is_interrupted:
            raise KeyboardInterrupt

    def interrupt(self, *_: object) -> None:
        """Interrupt the main thread, but in no frame: whoever reads would take the next one for the rest of it."""
        if self._writer == threading.get_ident():
            self._was_interrupted = True
        else:
            raise KeyboardInterrupt


class _Printed(io.RawIOBase):
    """The bytes below ``sys.stdout``: sends what is printed. Its number is that of the stream that children inherit."""

    def __init__(self, output: _Output) -> None:
        self._output = output

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def write(self, data: Any) -> int:
        self._output.send("printed", bytes(data))
        return len(data)


def _stdout(output: _Output) -> io.TextIOWrapper:
    """Return what stands in for ``sys.stdout``, and sends what is printed line by line."""
    buffer = io.BufferedWriter(_Printed(output))
    return io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", newline="\n", line_buffering=True)


class _Logged(logging.handlers.QueueHandler):
    """Sends log records."""

    sends_home = True

    def enqueue(self, record: logging.LogRecord) -> None:
        frame = pickle.dumps(record)
        self.queue.send("logged", frame)  # type: ignore[attr-defined]


class _Told(Told):
    """Passes on what becomes of a body."""

    def __init__(self, output: _Output) -> None:
        self._output = output

    def began(self) -> None:
        self._output.send("began", b"")

    def ended(self, seconds: float) -> None:
        self._output.send("ended", pickle.dumps(seconds))


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


def main() -> None:
    """Run bodies until the input ends, or whoever is to stop one interrupts the process where none runs."""
    with suppress(KeyboardInterrupt):
        _run_bodies()


def _run_bodies() -> None:
    output = _Output(os.fdopen(os.dup(1), "wb"))
    told = _Told(output)
    frames = _Input(os.fdopen(os.dup(0), "rb"))
    # what a body starts must not write between the frames: from here on, it writes to stderr
    os.dup2(2, 1)
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    printed = _stdout(output)
    logging.getLogger().addHandler(_Logged(output))  # type: ignore[arg-type]
    signal.signal(signal.SIGINT, output.interrupt)  # also where whoever began this process ignores it
    paths = frames.next()
    if paths is None:
        return
    sys.path[:] = pickle.loads(paths)  # noqa: S301 - it comes from the process that started this one
    while (levels := frames.next()) is not None and (frame := frames.next()) is not None:
        for name, level in pickle.loads(levels).items():  # noqa: S301
            logging.getLogger(name).setLevel(level)
        if printed.closed:
            printed = _stdout(output)
        sys.stdout = printed
        answer = run(frame, told)
        if not printed.closed:
            printed.flush()
        output.send("answer", answer)


if __name__ == "__main__":
    main()
