"""Workers in processes of their own, as `flowloop worker` starts them: no run is run twice."""

from __future__ import annotations

import asyncio
import signal
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from flowloop.backends import connect
from flowloop.backends.cli.flow_file import load_flow
from flowloop.engine import Settings
from flowloop.engine.cloud import create_flow_run

from ..commands import serving, start
from ..forks import Command

RUNS = 40


@contextmanager
def working(folder: Path, url: str) -> Iterator[Command]:
    """A worker process that has begun to work; it must end well after SIGTERM."""
    with start("worker", "flows.py", "--backend", url, cwd=folder, extra={"HERE": str(folder)}) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("flowloop works on"):
                    break
            else:
                raise AssertionError("the worker did not begin")
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output


@pytest.fixture(params=["sqlite", "server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    if request.param == "sqlite":
        yield database
        return
    with serving(database, cwd=tmp_path) as served:
        yield served


async def test_two_workers_share_the_runs(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flows.py").write_text(
        textwrap.dedent("""
            import os

            import anyio

            from flowloop.engine import Flow, context, task


            @task
            async def work(number):
                with open(os.environ["HERE"] + "/ran.txt", "a") as file:
                    file.write(f"{os.getpid()} {context.flow_run_id} {number}\\n")
                await anyio.sleep(0.05)


            with Flow("shared") as flow:
                work.map([1, 2, 3])
        """)
    )
    monkeypatch.setenv("HERE", str(tmp_path))
    flow = load_flow(str(tmp_path / "flows.py"))
    async with connect(url, settings=Settings(home=str(tmp_path / "home"))) as backend:
        ids = [await create_flow_run(flow, backend) for _ in range(RUNS)]
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(working(tmp_path, url))
            ids += [await create_flow_run(flow, backend) for _ in range(RUNS)]
            async with asyncio.timeout(90):
                for flow_run_id in ids:
                    # another process ends the run, and on a bare database nothing tells of it
                    while not (await backend.get_flow_run_state(flow_run_id)).is_finished():  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
        assert {type(await backend.get_flow_run_state(flow_run_id)).__name__ for flow_run_id in ids} == {"Success"}
    lines = [line.split() for line in (tmp_path / "ran.txt").read_text().splitlines()]
    assert Counter((flow_run_id, number) for _, flow_run_id, number in lines) == {
        (flow_run_id, number): 1 for flow_run_id in ids for number in "123"
    }
    of_run = {flow_run_id: pid for pid, flow_run_id, _ in lines}
    assert all(of_run[flow_run_id] == pid for pid, flow_run_id, _ in lines), "a run has one worker"
