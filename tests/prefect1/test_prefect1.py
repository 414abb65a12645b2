"""The real Prefect 1.4.1 works against a flowloop server, and each of the two finishes what the other began."""

from __future__ import annotations

import asyncio
import datetime
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flowloop.backends import connect
from flowloop.backends.store import ANYONE, Store
from flowloop.engine import Flow
from flowloop.engine.cloud import CloudFlowRunner

from ..commands import environment
from .conftest import FOLDER, Prefect, wait_for

pytestmark = [pytest.mark.prefect1, pytest.mark.heavy, pytest.mark.timeout(300)]


def new_run(prefect: Prefect, **parameters: int) -> str:
    return prefect.python(
        "found = client.graphql('{flow(order_by: {version: desc}, limit: 1) {id}}').data.flow[0].id\n"
        f"print(client.create_flow_run(flow_id=found, parameters={parameters!r}))"
    ).split()[-1]


def recorded(prefect: Prefect, flow_run_id: str) -> dict[str, list[str]]:
    """Return the states that were recorded: of the flow run under its own name, of task runs by slug and index."""

    async def read() -> dict[str, list[str]]:
        async with connect(prefect.url) as backend:
            _, task_runs = await backend.get_flow_run_history(flow_run_id)
            state = await backend.get_flow_run_state(flow_run_id)
            states = {
                f"{run.task_slug}{'' if run.map_index < 0 else f'[{run.map_index}]'}": [one.state for one in run.states]
                for run in task_runs
            }
            return {**states, "flow run": [type(state).__name__]}

    return asyncio.run(read())


def ran(folder: Path) -> Counter[str]:
    file = folder / "ran.txt"
    return Counter(file.read_text().splitlines()) if file.exists() else Counter()


ONCE = Counter(["numbers", "double 0", "double 1", "double 2", "double 3", "total"])
WHOLE = {
    "flow run": ["Success"],
    "n": ["Pending", "Running", "Success"],
    "numbers-1": ["Pending", "Running", "Success"],
    "double-1": ["Pending", "Mapped"],
    **{f"double-1[{index}]": ["Pending", "Running", "Success"] for index in range(4)},
    "total-1": ["Pending", "Running", "Success"],
}


def test_its_flow_runner_runs_a_flow(prefect: Prefect, folder: Path) -> None:
    flow_run_id = new_run(prefect)
    printed = prefect.python(f"print(run({flow_run_id!r}))")
    assert '<Success: "All reference tasks succeeded.">' in printed
    assert recorded(prefect, flow_run_id) == WHOLE
    assert ran(folder) == ONCE


def test_a_failed_task_is_retried(prefect: Prefect, folder: Path) -> None:
    (folder / "fail once").touch()
    flow_run_id = new_run(prefect)
    prefect.python(f"run({flow_run_id!r})")
    states = recorded(prefect, flow_run_id)
    assert states["total-1"] == ["Pending", "Running", "Failed", "Retrying", "Running", "Success"]
    assert states["flow run"] == ["Success"]
    assert ran(folder)["total"] == 2


def test_its_agent_picks_up_a_run(prefect: Prefect, folder: Path) -> None:
    flow_run_id = new_run(prefect)
    prefect.command("agent", "local", "start", "--import-path", str(FOLDER), "--max-polls", "2")
    wait_for(lambda: recorded(prefect, flow_run_id)["flow run"] == ["Success"], "the agent's run is over")
    assert recorded(prefect, flow_run_id) == WHOLE
    assert ran(folder) == ONCE


def test_its_command_line_lists_and_describes(prefect: Prefect) -> None:
    flow_run_id = new_run(prefect)
    prefect.python(f"run({flow_run_id!r})")
    name = prefect.python(
        f"print(client.graphql('{{flow_run_by_pk(id: \"{flow_run_id}\") {{name}}}}').data.flow_run_by_pk.name)"
    ).strip()
    assert "demo" in prefect.command("get", "projects")
    assert "both" in prefect.command("get", "flows", "--project", "demo")
    runs = prefect.command("get", "flow-runs", "--flow", "both")
    assert name in runs
    assert "Success" in runs
    assert "numbers" in prefect.command("get", "tasks", "--flow-name", "both")
    assert "Flow run SUCCESS" in prefect.command("get", "logs", "--id", flow_run_id)
    assert '"name": "both"' in prefect.command("describe", "flows", "--name", "both", "--project", "demo")
    assert '"numbers-1"' in prefect.command("describe", "tasks", "--name", "both", "--project", "demo")
    assert f'"{name}"' in prefect.command("describe", "flow-runs", "--name", name, "--flow-name", "both")


def test_a_run_is_cancelled(prefect: Prefect, folder: Path) -> None:
    (folder / "closed").touch()
    flow_run_id = new_run(prefect)
    with prefect.running(f"print(run({flow_run_id!r}))"):
        wait_for(lambda: ran(folder)["double 2"] == 1, "the third child runs")
        assert prefect.python(f"print(client.cancel_flow_run({flow_run_id!r}))").strip() == "Cancelling"
        wait_for(lambda: recorded(prefect, flow_run_id)["flow run"] == ["Cancelled"], "the run is cancelled")
    states = recorded(prefect, flow_run_id)
    assert states["double-1[1]"][-1] == "Success"
    assert states["double-1[2]"][-1] == "Cancelled"
    assert states["total-1"] == ["Pending", "Cancelled"]


# -- what one began, the other finishes ----------------------------------------------------------------


@pytest.fixture
def flow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The shared flow, as flowloop has it."""
    monkeypatch.setenv("HERE", str(folder))
    spec = importlib.util.spec_from_file_location("both", FOLDER / "both.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "both", module)
    spec.loader.exec_module(module)
    return module.flow


async def test_flowloop_finishes_what_prefect_began(prefect: Prefect, folder: Path, flow: Flow) -> None:
    (folder / "closed").touch()
    flow_run_id = new_run(prefect)
    with prefect.running(f"run({flow_run_id!r})") as kill:
        wait_for(lambda: ran(folder)["double 2"] == 1, "the third child runs")
        kill()
    (folder / "closed").unlink()
    async with connect(prefect.url) as backend:
        runner = CloudFlowRunner(flow, backend=backend, takeover=True)
        state = await runner.run(context={"flow_run_id": flow_run_id})
        assert (await backend.get_flow_run_state(flow_run_id)).is_successful()
    assert {task.name: one.result for task, one in state.result.items()}["total"] == 12
    assert ran(folder) == ONCE + Counter(["double 2"])


def others(states: dict[str, list[str]]) -> set[str]:
    """Return the states of all children but the third."""
    return {states[f"double-1[{index}]"][-1] for index in (0, 1, 3)}


def test_prefect_finishes_what_flowloop_began(prefect: Prefect, folder: Path, database: str, flow: Flow) -> None:
    (folder / "closed").touch()
    flow_run_id = new_run(prefect)
    code = (
        "import asyncio\n"
        "from flowloop.backends import connect\n"
        "from flowloop.engine.cloud import CloudFlowRunner\n"
        "from both import flow\n"
        "async def main():\n"
        f"    async with connect({prefect.url!r}) as backend:\n"
        f"        await CloudFlowRunner(flow, backend=backend).run(context={{'flow_run_id': {flow_run_id!r}}})\n"
        "asyncio.run(main())\n"
    )
    extra = {"HERE": str(folder), "PYTHONPATH": str(FOLDER)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment(folder, extra), cwd=folder) as process:
        wait_for(lambda: ran(folder)["double 2"] == 1, "the third child runs")
        wait_for(lambda: others(recorded(prefect, flow_run_id)) == {"Success"}, "its siblings have ended")
        os.kill(process.pid, signal.SIGKILL)
    (folder / "closed").unlink()

    async def kill_zombies() -> Any:
        """What the server's zombie killer does once a run has been silent for ten minutes."""
        async with Store(database) as store:
            return await store.kill_zombies(ANYONE, silence=datetime.timedelta(0))

    assert asyncio.run(kill_zombies())["task_runs"] == 1
    assert recorded(prefect, flow_run_id)["double-1[2]"][-1] == "Retrying"
    printed = prefect.python(f"print(run({flow_run_id!r}))")
    assert '<Success: "All reference tasks succeeded.">' in printed
    assert recorded(prefect, flow_run_id)["flow run"] == ["Success"]
    assert ran(folder) == ONCE + Counter(["double 2"])


@pytest.mark.parametrize("name", ["everything", "interface"])
def test_a_file_that_also_runs_here_gives_these_values(prefect_bin: Path, tmp_path: Path, name: str) -> None:
    """The values beside the files are Prefect's; ``test_prefect1_names.py`` holds flowloop to them."""
    variables = {"HERE": str(tmp_path), "WHO": "world", "PREFECT__FLOWS__CHECKPOINTING": "true"}
    home = {"PREFECT__HOME_DIR": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    file = FOLDER / f"{name}.py"
    ran = subprocess.run(
        [prefect_bin / "python", file],
        cwd=tmp_path,
        env=environment(tmp_path, {**variables, **home}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == json.loads(file.with_suffix(".json").read_text())
