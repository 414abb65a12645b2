"""Running the command line in processes of its own, as a person would."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .forks import Command

__all__ = ["ROOT", "environment", "flowloop", "heard", "own_port", "serving", "start"]

ROOT = Path(__file__).parent.parent


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a process whose settings are the defaults, with its files under `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLOWLOOP_")}
    return {**kept, "FLOWLOOP_HOME": str(home / "home"), "COLUMNS": "200", **(extra or {})}


def flowloop(
    *arguments: str, cwd: Path, extra: Mapping[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in `cwd`, with its files under it."""
    env = environment(cwd, extra)
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        with Command(arguments, cwd=cwd, env=env, output=output.fileno(), errors=errors.fileno()) as command:
            try:
                code = command.wait(timeout)
            finally:
                command.kill()
        return subprocess.CompletedProcess(arguments, code, _whole(output), _whole(errors))


def _whole(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def start(*arguments: str, cwd: Path, extra: Mapping[str, str] | None = None) -> Command:
    """Start a command."""
    read, written = os.pipe()
    try:
        return Command(
            arguments, cwd=cwd, env=environment(cwd, extra), output=written, errors=written, stdout=open(read)
        )
    finally:
        os.close(written)


def heard(process: Command, beginning: str) -> str:
    """Wait until a command has said a line with this beginning, and return it: before, it may not hear of a signal."""
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(beginning):
            return line
    raise AssertionError(f"it ended without a word of {beginning!r}:\n" + "".join(said))


@contextmanager
def serving(db: str, *, cwd: Path, extra: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run ``flowloop server`` in a process of its own; the value is its URL."""
    with start("server", "--db", db, "--port", "0", cwd=cwd, extra=extra) as process:
        try:
            yield heard(process, "flowloop serves ").split()[2]
        finally:
            process.terminate()
            process.communicate(timeout=60)


@contextmanager
def own_port() -> Iterator[int]:
    """A port that nobody else gets while the block lasts, where a server may come and go."""
    with socket.socket() as bound:  # it does not listen: who asks there finds nobody, or the server
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])
