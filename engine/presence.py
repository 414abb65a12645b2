"""Whether another process of this machine is gone: known at once, by a lock that the system lets go with the process.

Each process that owns flow runs holds the lock of a file of its own. Who finds that file's lock free knows that the
process is gone; a lock that is held proves nothing, because a process may be stopped, and then only its leases tell.
A file that cannot be found proves nothing either: its process may be on another machine, or in another container.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
import uuid
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows, where only leases tell
    fcntl = None  # type: ignore[assignment]

__all__ = ["is_gone", "new_owner"]

_KEPT = 86_400.0
"""For how many seconds the file of a process that is gone is kept, for those who ask after it, and how often it is
looked for such files: leases end long before.
"""


class _Here:
    """This process: its name, and the file whose lock it holds."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.id = uuid.uuid4().hex
        self.name = f"{socket.gethostname()}:{self.pid}".replace("/", "-")
        self._file = -1
        self.folder = ""
        if fcntl is not None:
            with contextlib.suppress(OSError):  # without a folder to write to, only leases tell
                self._lock()

    def _lock(self) -> None:
        assert fcntl is not None
        folder = _folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(folder / self.id, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.folder = _mark(folder)
        if _is_old(folder / "mark"):
            os.utime(folder / "mark")  # first: others that begin now need not look
            _sweep(folder)


_here: _Here | None = None


def _this_process() -> _Here:
    global _here
    if _here is None or _here.pid != os.getpid():  # a forked process has no lock of its parent
        _here = _Here()
    return _here


def new_owner() -> str:
    """Return a new name for an owner of flow runs in this process.

    It is the machine and the process for people to read, then what `is_gone` looks for, then what makes it unique.
    """
    here = _this_process()
    return f"{here.name}/{here.folder}/{here.id}/{os.urandom(6).hex()}"


def is_gone(owner: str) -> bool:
    """Whether an owner was a process of this machine that has ended for certain."""
    here = _this_process()
    parts = owner.split("/")
    if fcntl is None or len(parts) != 4 or not here.folder or parts[1] != here.folder or parts[2] == here.id:
        return False
    if not parts[2].isalnum():
        return False
    return _is_free(_folder() / parts[2])


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / f"flowloop-{os.getuid()}"


def _mark(folder: Path) -> str:
    """Return what tells this folder from those of other machines: a text that whoever is first puts there."""
    try:
        with open(folder / "mark", "x", encoding="utf-8") as file:
            file.write(uuid.uuid4().hex)
    except FileExistsError:
        pass
    deadline = time.monotonic() + 1
    while not (text := (folder / "mark").read_text(encoding="utf-8")) and time.monotonic() < deadline:
        time.sleep(0.001)  # who is first has not written it yet
    return text


def _is_free(path: Path) -> bool:
    if fcntl is None:
        return False
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # several may ask at once
        return True
    except OSError:
        return False
    finally:
        os.close(file)


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > _KEPT


def _sweep(folder: Path) -> None:
    """Remove the files of processes that ended long ago."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.name != "mark" and _is_old(path) and _is_free(path):
                path.unlink()
