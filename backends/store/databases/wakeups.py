"""Waking other processes that share a SQLite file: a datagram to each socket that lies beside it.

SQLite tells nobody that another process has written. Whoever wants to know binds a socket in a folder beside the file,
and whoever commits sends a few bytes to every socket there. A socket whose process is gone is removed by the next
sender. What cannot be sent is not missed for long: whoever listens looks by itself now and then, too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Wakeups", "available", "messages"]

_LONGEST = 4096
"""Bytes of a datagram that is read whole."""


def available() -> bool:
    """Whether this system has sockets that lie in a folder, and lets a long path to one be shortened."""
    return hasattr(socket, "AF_UNIX") and Path("/proc/self/fd").is_dir()


class Wakeups:
    """The sockets beside one SQLite file.

    Args:
        - path: the file
    """

    def __init__(self, path: str) -> None:
        self._folder = Path(f"{path}-wakeups")
        self._name = uuid.uuid4().hex[:12]
        self._sender: socket.socket | None = None

    def open(self) -> socket.socket:
        """Return a socket that hears what other processes send; `close` removes it.

        Raises:
            - OSError: if the folder of the file takes no socket
        """
        self._folder.mkdir(exist_ok=True)
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            with self._short() as folder:
                receiver.bind(f"{folder}/{self._name}")
        except OSError:
            receiver.close()
            raise
        return receiver

    def close(self, receiver: socket.socket | None = None) -> None:
        """Close the sockets, and leave the folder as it was found."""
        if receiver is not None:
            receiver.close()
            with contextlib.suppress(OSError):
                (self._folder / self._name).unlink()
            with contextlib.suppress(OSError):  # somebody else still listens
                self._folder.rmdir()
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def send(self, message: bytes) -> None:
        """Send a message to all other processes that listen."""
        try:
            names = os.listdir(self._folder)
        except OSError:
            return  # nobody listens
        others = [name for name in names if name != self._name]
        if not others:
            return
        if self._sender is None:
            self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with self._short() as folder:
            for name in others:
                self._send_to(self._sender, f"{folder}/{name}", message)

    def _send_to(self, sender: socket.socket, path: str, message: bytes) -> None:
        try:
            sender.sendto(message, path)
        except ConnectionRefusedError:  # its process is gone
            with contextlib.suppress(OSError):
                os.unlink(path)
        except OSError:
            pass  # it has more than enough to read, or has just been removed

    @contextlib.contextmanager
    def _short(self) -> Iterator[str]:
        """A path to the folder that is short enough for the address of a socket, however long its own is."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)


def messages(receiver: socket.socket) -> Iterator[bytes]:
    """Yield what has arrived at a socket."""
    while True:
        try:
            yield receiver.recv(_LONGEST)
        except OSError:
            return
