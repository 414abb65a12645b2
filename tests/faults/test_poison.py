"""One flow run that ends the process it runs in: its neighbours end well all the same, and it is given up."""

from __future__ import annotations

import asyncio
import signal
import textwrap
from pathlib import Path

import pytest

from flowloop.backends import connect
from flowloop.backends.cli.flow_file import load_flow
from flowloop.engine import Settings
from flowloop.engine.cloud import create_flow_run

from ..commands import heard, start
from ..forks import Command

pytestmark = [pytest.mark.faults, pytest.mark.heavy, pytest.mark.timeout(300)]

WORKERS = 3
NEIGHBOURS = 4
HASTY = {"FLOWLOOP_HEARTBEAT_INTERVAL": "5"}
"""Not hastier: a worker on a busy machine must not lose what it runs."""

FLOWS = """
    import os
    import signal

    import anyio

    from flowloop.engine import Flow, task


    def note(what):
        with open(os.environ["HERE"] + "/" + what, "a") as file:
            file.write("x")


    @task
    async def dies():
        note("dies")
        await anyio.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)


    @task
    async def lives():
        note("lives")
        await anyio.sleep(1)


    with Flow("poison") as poison:
        dies()
    with Flow("neighbour") as neighbour:
        lives()
"""


async def test_poison_in_a_fleet_of_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", str(tmp_path))
    file = tmp_path / "flows.py"
    file.write_text(textwrap.dedent(FLOWS))
    poison, neighbour = (load_flow(f"{file}:{name}") for name in ("poison", "neighbour"))
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    deaths = 0
    async with connect(url, settings=Settings(home=str(tmp_path / "home"))) as backend:
        ids = [await create_flow_run(neighbour, backend) for _ in range(NEIGHBOURS // 2)]
        poisonous = await create_flow_run(poison, backend)
        ids += [await create_flow_run(neighbour, backend) for _ in range(NEIGHBOURS - len(ids))]

        def working() -> Command:
            command = ("worker", "flows.py:poison", "flows.py:neighbour", "--backend", url)
            return start(*command, cwd=tmp_path, extra={"HERE": str(tmp_path), **HASTY})

        workers = [working() for _ in range(WORKERS)]
        try:
            for worker in workers:
                await asyncio.to_thread(heard, worker, "flowloop works on ")
            while not all([(await backend.get_flow_run_state(one)).is_finished() for one in (poisonous, *ids)]):
                await asyncio.sleep(0.2)
                for number, worker in enumerate(workers):  # as what supervises them would
                    if worker.poll() is not None:
                        assert worker.returncode == -signal.SIGKILL
                        worker.communicate()
                        deaths += 1
                        workers[number] = working()
                        await asyncio.to_thread(heard, workers[number], "flowloop works on ")
        finally:
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            said = [worker.communicate(timeout=60)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [0] * WORKERS, said
        ends = [repr(await backend.get_flow_run_state(one)) for one in ids]
        assert all(end.startswith("<Success") for end in ends), ends
        state = await backend.get_flow_run_state(poisonous)
    assert state.is_failed()
    assert "begun 3 times" in str(state.message)
    assert (tmp_path / "dies").read_text() == "xxx"
    assert deaths == 1, "what may have killed a worker is begun in a process of its own"
    assert len((tmp_path / "lives").read_text()) <= 2 * NEIGHBOURS, "no neighbour is begun beside it again"
