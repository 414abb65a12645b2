"""Steering one flow run by the API, by commands, from code and from another process: all record the same history."""

from __future__ import annotations

import asyncio
import datetime
import getpass
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from click.testing import CliRunner

from flowloop.backends import connect
from flowloop.backends.cli.commands import flowloop as command
from flowloop.backends.server.app import create_app
from flowloop.backends.server.settings import ServerSettings
from flowloop.engine import Flow, Parameter, Settings, pause_task, task, wait_for_event
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run

ASK = """
mutation ($input: direct_flow_run_input!) { direct_flow_run(input: $input) { id } }
"""

ELSEWHERE = """
import asyncio, json, sys
from flowloop.backends import connect

async def main():
    async with connect(sys.argv[1]) as backend:
        while line := await asyncio.to_thread(sys.stdin.readline):
            await backend.direct_flow_run(**json.loads(line))
            print("done", flush=True)

asyncio.run(main())
"""


class Way:
    """One way of asking."""

    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        yield

    async def ask(self, kind: str, **given: Any) -> None:
        raise NotImplementedError


class Code(Way):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with connect(self.url) as self.backend:
            yield

    async def ask(self, kind: str, **given: Any) -> None:
        await self.backend.direct_flow_run(kind=kind, **given)


class Mutation(Way):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        app = create_app(self.url, settings=ServerSettings(require_api_key=False, scheduler=False))
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app)
            self.client = await stack.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url="http://served")
            )
            yield

    async def ask(self, kind: str, **given: Any) -> None:
        answer = await self.client.post(
            "/graphql", json={"query": ASK, "variables": {"input": {"kind": kind, **given}}}
        )
        assert "errors" not in answer.json(), answer.text


class Command(Way):
    async def ask(self, kind: str, **given: Any) -> None:
        words = [kind.replace("_", "-"), given["flow_run_id"]]
        if kind == "restart":
            words += ["--at", given["task"]]
        elif "task" in given:
            words.append(given["task"])
        value = given.get("value")
        if kind == "set_limits":
            words += ["--concurrency", str(value["concurrency"]), "--rate", "9/1s"]
        elif kind in ("set_parameter", "set_result"):
            words.append(json.dumps(value))
        elif "value" in given:
            words += ["--value", json.dumps(value)]
        for option in ("note", "tag"):
            words += [f"--{option}", given[option]] if option in given else []
        result = await anyio.to_thread.run_sync(lambda: CliRunner().invoke(command, [*words, "--backend", self.url]))
        assert result.exit_code == 0, result.output


class Elsewhere(Way):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        pipe = asyncio.subprocess.PIPE
        words = [sys.executable, "-c", ELSEWHERE, self.url]
        self.process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe)
        yield
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.process.wait()

    async def ask(self, kind: str, **given: Any) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"kind": kind, **given}).encode() + b"\n")
        assert await self.process.stdout.readline() == b"done\n"


class Steered:
    """A flow run that is steered at each of its turns."""

    def __init__(self, backend: Backend, settings: Settings, way: Way) -> None:
        self.backend = backend
        self.settings = settings
        self.way = way
        self.gate = anyio.Event()
        self.reached = anyio.Event()
        self.paid: list[Any] = []
        self.flow = self._flow()

    def _flow(self) -> Flow:
        @task
        async def gate(n: int) -> int:
            self.reached.set()
            await self.gate.wait()
            return n

        @task
        async def second(n: int) -> datetime.date:
            raise AssertionError("it is told what to return")

        @task
        async def third(day: datetime.date) -> int:
            return day.year

        @task
        async def skipped() -> None:
            raise AssertionError("it is skipped")

        @task(tags=["late"], slug="late-1")
        async def late(n: int) -> int:
            return n

        @task
        async def asks() -> int:
            answer: int = pause_task("how many?", type=int)
            return answer

        @task
        async def pays(many: int, amount: float, year: int) -> None:
            self.paid.append((many, amount, year))

        with Flow("steered") as flow:
            begun = gate(Parameter("n", default=1, type=int))
            year = third(second(begun))
            skipped(upstream_tasks=[begun])
            late(begun)
            pays(asks(), wait_for_event("priced", type=float), year)
        return flow

    async def ask(self, kind: str, **given: Any) -> None:
        if self.way.__class__ is not Command:
            given["author"] = getpass.getuser()
        await self.way.ask(kind, flow_run_id=self.id, **given)

    async def run(self) -> None:
        runner = CloudFlowRunner(self.flow, backend=self.backend, settings=self.settings)
        await runner.run(context={"flow_run_id": self.id})

    async def heard(self, runner: CloudFlowRunner) -> None:
        """Wait until the other limits hold, which the runner has to hear of, and the event has come."""
        states: list[str] = []
        with anyio.fail_after(60):
            while "Success" not in states or runner._limits is None or runner._limits.limits.concurrency != 3:
                await anyio.sleep(0.01)
                _, task_runs = await self.backend.get_flow_run_history(self.id)
                (states,) = ([one.state for one in run.states] for run in task_runs if "priced" in run.task_slug)

    async def steer(self, *, takeover: bool) -> None:
        self.id = await create_flow_run(self.flow, self.backend, settings=self.settings)
        await self.ask("set_parameter", task="n", value=5)
        runner = CloudFlowRunner(self.flow, backend=self.backend, settings=self.settings)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: runner.run(context={"flow_run_id": self.id}))
            await self.reached.wait()
            await self.ask("set_limits", value={"concurrency": 3, "rate": {"count": 9, "period": 1.0}})
            await self.ask("skip", task="skipped-1", note="not today")
            await self.ask("set_result", task="second-1", value="2024-02-29")
            await self.ask("hold", tag="late")
            await self.ask("event", task="priced", value="never")
            await self.ask("event", task="priced", value=2.5)
            await self.heard(runner)
            if takeover:
                runner.cancel("handover")
            self.gate.set()
        if takeover:
            await self.run()
        assert not (await self.backend.get_flow_run_state(self.id)).is_finished()
        await self.ask("resume", task="asks-1", value=3, note="three")
        await self.ask("release", tag="late")
        await self.run()
        await self.ask("restart", task="pays-1")
        await self.ask("cancel")

    async def history(self) -> tuple[Any, ...]:
        run, task_runs = await self.backend.get_flow_run_history(self.id)
        states = {one.task_slug: [(state.state, state.message) for state in one.states] for one in task_runs}
        asked = [
            (one.kind, one.task, one.tag, one.value, one.note, one.author, one.obeyed is not None)
            for one in await self.backend.list_directives(self.id)
        ]
        return run.state, run.state_message, states, asked


@pytest.fixture(scope="module")
def expected() -> dict[bool, tuple[Any, ...]]:
    """What the first way has recorded, with and without a takeover."""
    return {}


@pytest.mark.parametrize("takeover", [False, True], ids=["", "takeover"])
@pytest.mark.parametrize("way", [Code, Mutation, Command, Elsewhere])
async def test_each_way_records_the_same(
    way: type[Way], takeover: bool, expected: dict[bool, tuple[Any, ...]], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with connect(url, synchronous="OFF") as backend, (asking := way(url)).open():
        steered = Steered(backend, Settings(home=str(tmp_path)), asking)
        await steered.steer(takeover=takeover)
        history = await steered.history()
    assert steered.paid == [(3, 2.5, 2024)]
    state, _, states, asked = history
    me = getpass.getuser()
    assert state == "Cancelled"
    assert states["skipped-1"][-1] == ("Skipped", f"Skipped by {me}: not today")
    assert states["second-1"][-1] == ("Success", f"Result set by {me}.")
    assert [name for name, _ in states["late-1"]] == ["Pending", "Paused", "Scheduled", "Running", "Success"]
    assert [name for name, _ in states["asks-1"]][-4:] == ["Paused", "Resume", "Running", "Success"]
    assert [kind for kind, *_ in asked] == [
        *("set_parameter", "set_limits", "skip", "set_result", "hold", "event", "event", "resume", "release"),
        *("restart", "cancel"),
    ]
    assert history == expected.setdefault(takeover, history)
