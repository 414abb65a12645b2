"""Two runners of one flow run, as processes: side by side, and one that is stopped for a while beside its successor.

``--tries`` and ``--seed`` choose how often, and with which delays; each test says how many tries truly met.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import random
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from flowloop.backends import connect
from flowloop.engine.backend import Backend, StateRecord
from flowloop.engine.cloud import create_flow_run

from ..commands import ROOT, environment
from .owners import CHILDREN, owned_flow

pytestmark = [pytest.mark.faults, pytest.mark.heavy, pytest.mark.timeout(3600)]

KEYS = ("numbers-1[-1]", "total-1[-1]", *(f"work-1[{n}]" for n in range(CHILDREN)))


class Owner:
    """A process of ``owners.py``, and what it has said of the run that goes on."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    @classmethod
    @asynccontextmanager
    async def process_on(cls, url: str, heartbeat_interval: float, folder: Path) -> AsyncIterator[Owner]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.owners", url, str(heartbeat_interval)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(folder),
            cwd=ROOT,
        )
        owner = cls(process)
        try:
            assert await owner.line() == "ready"
            yield owner
        finally:
            process.kill()
            await process.wait()

    def begin(self, flow_run_id: str, delay: float = 0.0) -> None:
        self.lines = []
        assert self.process.stdin is not None
        self.process.stdin.write(f"{flow_run_id} {delay}\n".encode())

    async def line(self) -> str:
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode().strip()
        assert line, "the runner has ended"
        return line

    async def hear(self, count: int) -> bool:
        """Hear until so many bodies have begun; return whether it got so far."""
        while sum(line.startswith("began") for line in self.lines) < count:
            self.lines.append(await self.line())
            if self.lines[-1].startswith("end"):
                return False
        return True

    async def end(self) -> str:
        while not (self.lines and self.lines[-1].startswith("end")):
            self.lines.append(await self.line())
        return self.lines[-1].split()[1]


async def checked(backend: Backend, flow_run_id: str, *owners: Owner) -> dict[str, list[StateRecord]]:
    """Check that the run ended, and that no body began oftener than Running was recorded for it."""
    assert type(await backend.get_flow_run_state(flow_run_id)).__name__ == "Success"
    _, task_runs = await backend.get_flow_run_history(flow_run_id)
    states = {f"{run.task_slug}[{run.map_index}]": run.states for run in task_runs}
    said = [line.split() for owner in owners for line in owner.lines]
    for who in KEYS:
        began = sum(line == ["began", who] for line in said)
        recorded = sum(state.state == "Running" for state in states[who])
        assert began <= recorded, f"{who} began {began} times, and Running was recorded {recorded} times"
        assert states[who][-1].state == "Success"
    return states


def told(name: str, met: int, tries: int) -> None:
    print(f"{name}: {met} of {tries} tries met")
    assert 2 * met >= tries, f"only {met} of {tries} tries met: choose other delays"


async def test_two_runners_of_one_flow_run(
    url: str, tmp_path: Path, tries: int, rng: random.Random, capsys: pytest.CaptureFixture[str]
) -> None:
    met = 0
    async with (
        connect(url) as backend,
        Owner.process_on(url, 30, tmp_path) as first,
        Owner.process_on(url, 30, tmp_path) as second,
    ):
        for number in range(tries):
            flow_run_id = await create_flow_run(owned_flow(lambda _: None), backend)
            first.begin(flow_run_id)
            second.begin(flow_run_id, 0.0 if number == 0 else rng.uniform(0, 1))
            ends = sorted(await asyncio.gather(first.end(), second.end()))
            assert ends in (["FlowRunOwned", "Success"], ["Success", "Success"])
            met += "FlowRunOwned" in ends
            await checked(backend, flow_run_id, first, second)
    with capsys.disabled():
        told("two runners", met, tries)


async def test_an_owner_that_is_stopped_for_a_while_beside_its_successor(
    url: str, tmp_path: Path, tries: int, rng: random.Random, capsys: pytest.CaptureFixture[str]
) -> None:
    met = 0
    async with (
        connect(url) as backend,
        Owner.process_on(url, 0.5, tmp_path) as frozen,
        Owner.process_on(url, 30, tmp_path) as heir,
    ):
        for _ in range(tries):
            flow_run_id = await create_flow_run(owned_flow(lambda _: None), backend)
            frozen.begin(flow_run_id)
            await frozen.hear(rng.randrange(CHILDREN + 1))
            await freeze(frozen.process, url)
            try:
                heir.begin(flow_run_id)
                while await heir.end() == "FlowRunOwned":
                    heir.begin(flow_run_id, 0.3)
                    await heir.hear(rng.randrange(1, CHILDREN))
                    if not heir.lines[-1].startswith("end"):
                        break
            finally:
                os.kill(frozen.process.pid, signal.SIGCONT)
            ends = [await frozen.end(), await heir.end()]
            states = await checked(backend, flow_run_id, frozen, heir)
            if ends == ["OwnershipLost", "Success"]:
                met += 1
                check_nothing_recorded_after(fence(heir, states), frozen, states)
            else:
                assert ends == ["Success", "Success"], "it had recorded its end before it was stopped"
    with capsys.disabled():
        told("stopped owner", met, tries)


async def freeze(process: asyncio.subprocess.Process, url: str) -> None:
    """Stop a process, but not in the midst of writing to a file: until it went on, nobody else could write there."""
    while True:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)  # noqa: ASYNC222 - it stops at once
        if not url.startswith("sqlite") or can_write(url.removeprefix("sqlite:///")):
            return
        os.kill(process.pid, signal.SIGCONT)
        await asyncio.sleep(0)


def can_write(path: str) -> bool:
    with closing(sqlite3.connect(path, timeout=0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.rollback()
        return True


def acked(owner: Owner) -> list[tuple[str, int]]:
    """Return what a runner was told is recorded: the task run, and the version."""
    found = [line.split() for line in owner.lines if line.startswith("acked")]
    return [(who, int(version)) for _, who, version, _ in found]


def fence(heir: Owner, states: dict[str, list[StateRecord]]) -> datetime.datetime:
    """Return when the first state of the successor was recorded."""
    return min(states[who][version - 1].timestamp for who, version in acked(heir))


def check_nothing_recorded_after(fence: datetime.datetime, frozen: Owner, states: dict[str, list[StateRecord]]) -> None:
    for who, version in acked(frozen):
        assert states[who][version - 1].timestamp < fence, f"{who} was recorded by a former owner"
