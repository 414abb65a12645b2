"""A mapped flow that says what it does, a line each: ``began`` when a body begins, ``acked`` when a state is recorded.

As a script, ``python mapped.py``, it reads lines ``DATABASE FLOW_RUN_ID``, and runs each in a process that it forks: to
import all takes far longer than to run. That one says ``process PID`` first, and this one ``ended CODE``.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import anyio
import msgspec

from flowloop.backends import connect
from flowloop.engine import Flow, Limits, Settings, context, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.testing import Call, RecordingBackend

CHILDREN = 300

Say = Callable[[str], None]


def to_pipe(line: str) -> None:
    """Say a line so that it is heard even if this process is killed at once."""
    os.write(1, f"{line}\n".encode())


def key() -> str:
    index = context.get("map_index")
    return f"{context.task_slug}[{-1 if index is None else index}]"


def mapped_flow(say: Say) -> Flow:
    @task
    async def numbers() -> list[int]:
        say(f"began {key()}")
        return list(range(CHILDREN))

    @task
    async def double(number: int) -> int:
        say(f"began {key()}")
        await anyio.sleep(0.001)
        return 2 * number

    @task
    async def total(doubled: list[int]) -> int:
        say(f"began {key()}")
        return sum(doubled)

    with Flow("mapped") as flow:
        total(double.map(numbers()))
    return flow


class TellingBackend(RecordingBackend):
    """Says which states of task runs it was told are recorded."""

    def __init__(self, backend: Backend, say: Say) -> None:
        super().__init__(backend)
        self._say = say

    async def _called(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        answer = await super()._called(call, args, kwargs)
        if call.method == "set_task_run_state":
            given = call.arguments
            self._say(f"acked {key()} {given['version'] + 1} {type(given['state']).__name__}")
        return answer


def runner(flow: Flow, backend: Backend, say: Say) -> CloudFlowRunner:
    settings = msgspec.structs.replace(Settings.from_env(), max_lapses=1_000)
    return CloudFlowRunner(flow, backend=TellingBackend(backend, say), settings=settings, limits=Limits(concurrency=8))


def check(lines: list[str], recorded: dict[str, list[str]], *, again: bool) -> None:
    """Check what was said against what is recorded.

    Args:
        - lines: what was said, in order
        - recorded: the states of each task run, by what `key` calls it, oldest first
        - again: whether a body that was under way when its process died may have run again
    """
    finished: set[str] = set()
    began: dict[str, int] = {}
    for line in lines:
        match line.split():
            case ["began", who]:
                assert who not in finished, f"{who} ran although it had finished"
                began[who] = began.get(who, 0) + 1
            case ["acked", who, version, state]:
                assert recorded[who][int(version) - 1] == state, f"{line}, but recorded is {recorded[who]}"
                if state == "Success":
                    finished.add(who)
            case _:
                raise AssertionError(f"somebody said {line!r}")
    assert began.keys() == {"numbers-1[-1]", "total-1[-1]", *(f"double-1[{n}]" for n in range(CHILDREN))}
    for who, states in recorded.items():
        runs = states.count("Running")
        assert states == (
            ["Pending", "Mapped"] if who == "double-1[-1]" else ["Pending", *["Running"] * runs, "Success"]
        )
        if not again:
            assert (began.get(who), runs) in ((1, 1), (None, 0))


async def history(backend: Backend, flow_run_id: str) -> dict[str, list[str]]:
    _, task_runs = await backend.get_flow_run_history(flow_run_id)
    for run in task_runs:
        assert [one.version for one in run.states] == list(range(1, len(run.states) + 1))
    return {f"{run.task_slug}[{run.map_index}]": [one.state for one in run.states] for run in task_runs}


async def _run(url: str, flow_run_id: str) -> None:
    async with connect(url) as backend:
        state = await runner(mapped_flow(to_pipe), backend, to_pipe).run(context={"flow_run_id": flow_run_id})
        assert state.is_successful(), state


def _fork_runners() -> None:
    for name in ("flowloop.backends.embedded", "flowloop.backends.client", "sqlalchemy.dialects.postgresql.asyncpg"):
        importlib.import_module(name)
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            to_pipe(f"process {os.getpid()}")
            asyncio.run(_run(*line.split()))
            return
        _, status = os.waitpid(pid, 0)
        to_pipe(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    _fork_runners()
