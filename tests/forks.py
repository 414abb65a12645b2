"""Processes of the command line, forked from one that has imported it: to import all takes longer than most commands.

Each is a process like any other, with its own arguments, folder, environment and streams, and as many open files as who
starts it. The one that they are forked from is in `fork_commands`; between it and a command is a process that says how
the command ended.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

__all__ = ["Command", "fork_commands"]

_IMPORTED = (
    "flowloop.backends.cli.commands",
    "flowloop.backends.client",
    "flowloop.backends.embedded",
    "flowloop.backends.server.run",
    "flowloop.backends.store.databases.postgres",
    "flowloop.backends.store.databases.sqlite",
    "flowloop.backends.store.migrations",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
)
_SCRIPT = """
import sys
from tests.forks import fork_commands
fork_commands(int(sys.argv.pop()))
from flowloop.backends.cli import main
main()
"""
_ROOT = Path(__file__).parent.parent
_NUMBER = struct.Struct("q")


class Command:
    """A command that is under way: what tests need of `subprocess.Popen`.

    Args:
        - arguments: those of ``flowloop``
        - cwd: its folder
        - env: its environment
        - output: the file descriptor of its output
        - errors: that of what it says of errors
        - stdout: what reads its output, if somebody does
    """

    def __init__(
        self,
        arguments: tuple[str, ...],
        *,
        cwd: Path,
        env: Mapping[str, str],
        output: int,
        errors: int,
        stdout: IO[str] | None = None,
    ) -> None:
        self.stdout = stdout
        self.returncode: int | None = None
        self._line, its = socket.socketpair()
        with its, open(os.devnull) as nothing:
            socket.send_fds(_forks(), [b"."], [its.fileno(), nothing.fileno(), output, errors])
        files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._line.sendall(json.dumps([arguments, str(cwd), dict(env), files]).encode())
        self._line.shutdown(socket.SHUT_WR)
        self.pid = self._number()

    def _number(self) -> int:
        found = self._line.recv(_NUMBER.size, socket.MSG_WAITALL)
        return int(_NUMBER.unpack(found)[0])

    def wait(self, timeout: float | None = None) -> int:
        """Return how it ended, as `subprocess` says it.

        Raises:
            - TimeoutError: if it did not end in so many seconds
        """
        if self.returncode is None:
            self._line.settimeout(timeout)
            self.returncode = os.waitstatus_to_exitcode(self._number())
            self._line.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return how it ended, None while it goes on."""
        try:
            return self.wait(timeout=0)
        except BlockingIOError:
            return None

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Return what it still says, and wait for its end."""
        said = ""
        if self.stdout is not None:
            with self.stdout:
                said = self.stdout.read()
        self.wait(timeout)
        return said, None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.stdout is not None:
            self.stdout.close()
        self.wait()


@functools.cache
def _forks() -> socket.socket:
    """Return what asks the process that commands are forked from, which is started for it and ends with this one."""
    mine, its = socket.socketpair()
    with its:
        env = {name: value for name, value in os.environ.items() if not name.startswith("FLOWLOOP_")}
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(its.fileno())],
            pass_fds=[its.fileno()],
            cwd=_ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def end() -> None:
        mine.close()
        process.wait()

    atexit.register(end)
    return mine


def fork_commands(control: int) -> None:
    """Fork a process for each request, and return in it: what comes then is the command."""
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those between
    with socket.socket(fileno=control) as asked:
        while True:
            is_there, files, _, _ = socket.recv_fds(asked, 1, 4)
            if not is_there:
                os._exit(0)
            if os.fork() == 0:
                break
            for file in files:
                os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _become_command(socket.socket(fileno=files[0]), files[1:])


def _become_command(line: socket.socket, streams: list[int]) -> None:
    """Return in another process, after its arguments; this one says there its number and how it ended, and ends."""
    with line:
        request = b"".join(iter(lambda: line.recv(1 << 16), b""))
        pid = os.fork()
        if pid:
            for stream in streams:
                os.close(stream)
            line.sendall(_NUMBER.pack(pid))
            line.sendall(_NUMBER.pack(os.waitpid(pid, 0)[1]))
            os._exit(0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    arguments, cwd, env, files = json.loads(request)
    resource.setrlimit(resource.RLIMIT_NOFILE, tuple(files))
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[1:] = arguments
