"""Trials of the grid in which every runner is a process of its own, and dies as processes die.

The processes are forked from one that has imported all they need, so that each costs milliseconds: `serve`, which
reads from its input who has to live, and writes what became of him.
"""

from __future__ import annotations

import asyncio
import atexit
import datetime
import functools
import gc
import logging
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from flowloop.engine.executors import ProcessExecutor
from flowloop.engine.testing import run

from .grid import PAUSE_OF_THE_DEAD, ROUNDS, Trial, connection, one_life
from .grid_bodies import HOUR
from .mortal import MortalBackend

_BEGIN = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)


class Life(NamedTuple):
    """A process that goes on with a flow run: from when on, and in which of its writes it is killed."""

    trial: Trial
    folder: str
    base: int
    death: int | None
    begins: datetime.datetime


class End(NamedTuple):
    """What became of a process: when it ended, and the value of the flow run if that is over."""

    at: datetime.datetime
    value: list[Any] | None = None
    error: str | None = None


def values_by_many_processes(trial: Trial, folder: str, base: int) -> list[Any]:
    """Return what the ends of a program have after one process after the other went on with its flow run."""
    database = Path(folder, "grid.db")
    if not database.exists():
        database.write_bytes(_empty_database())
    now = _BEGIN
    for death in [*trial.deaths, *[None] * ROUNDS]:
        end = _lived(Life(trial, folder, base, death, now))
        assert end.error is None, end.error
        if end.value is not None:
            return end.value
        now = end.at + (HOUR if death is None else PAUSE_OF_THE_DEAD)
    raise AssertionError("the flow run does not end")


@functools.cache
def _empty_database() -> bytes:
    """Return a file with the tables: they take longer to make than a flow run of the grid."""
    with tempfile.TemporaryDirectory() as folder:
        run(_opened(folder))
        return Path(folder, "grid.db").read_bytes()


async def _opened(folder: str) -> None:
    async with _database(folder):
        pass


def _database(folder: str) -> Any:
    return connection(f"sqlite:///{folder}/grid.db", folder)


# -- the processes ---------------------------------------------------------------------------------------


def _lived(life: Life) -> End:
    """Have a process live, and return what became of it."""
    forks = _forks()
    assert forks.stdin is not None
    assert forks.stdout is not None
    pickle.dump(life, forks.stdin)
    forks.stdin.flush()
    end: End = pickle.load(forks.stdout)
    return end


@functools.cache
def _forks() -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    forks = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import serve; serve()"],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    atexit.register(_end, forks)
    return forks


def _end(forks: subprocess.Popen[bytes]) -> None:
    with forks:
        forks.kill()


def serve() -> None:
    """Fork a process for each life."""
    # once for all, and in pages that the collector of no process touches
    import anyio._backends._asyncio  # noqa: F401
    import pandas  # noqa: F401

    import flowloop.backends.embedded  # noqa: F401

    gc.freeze()

    while True:
        try:
            life = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        here, there = os.pipe()
        if not os.fork():
            os.close(here)
            _live(life, there)
        os.close(there)
        with open(here, "rb") as pipe:
            end = pipe.read()
        os.wait()
        sys.stdout.buffer.write(end or pickle.dumps(End(life.begins, error="the process died")))
        sys.stdout.buffer.flush()


def _live(life: Life, pipe: int) -> NoReturn:
    logging.disable(logging.CRITICAL)
    try:
        end = run(_gone_on(life, pipe), start=life.begins)
    except BaseException as error:
        end = End(life.begins, error=repr(error))
    _die(pipe, end)


async def _gone_on(life: Life, pipe: int) -> End:
    executor = ProcessExecutor(1) if life.trial.place == "processes" and life.death is None else None
    async with _database(life.folder) as backend:
        killed = KilledBackend(backend, life.death, pipe)
        value = await one_life(life.trial, killed, life.folder, executor, life.base)
    return End(_now(), value)


class KilledBackend(MortalBackend):
    """Kills its process in the middle of a call."""

    def __init__(self, backend: Any, dies_at: int | None, pipe: int) -> None:
        super().__init__(backend, dies_at, recorded=dies_at is not None and dies_at % 2 == 0)
        self._pipe = pipe

    def die(self) -> NoReturn:
        """End the process without a word to the database."""
        _die(self._pipe, End(_now()))


def _die(pipe: int, end: End) -> NoReturn:
    os.write(pipe, pickle.dumps(end))
    os._exit(0)


def _now() -> datetime.datetime:
    moment: datetime.datetime = asyncio.get_running_loop().clock.now()  # type: ignore[attr-defined]
    return moment
