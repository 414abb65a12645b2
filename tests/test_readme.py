"""The README, executed as printed: three ways to run one flow, to the same final states."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowloop.backends import connect
from flowloop.engine.backend import TaskRunHistory

from .commands import ROOT, environment, flowloop, serving

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SERVER = "http://127.0.0.1:4200"


def execute(code: str, cwd: Path) -> str:
    """Run a block of the README as a script, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=environment(cwd),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def outcome(printed: str) -> str:
    return re.search(r'<(\w+): "', printed)[1]  # type: ignore[index]


async def recorded(url: str) -> dict[tuple[str, int], list[str]]:
    """Return the states of every task run of the only flow run."""
    async with connect(url) as backend:
        (run,) = await backend.list_flow_runs()
        summary, task_runs = await backend.get_flow_run_history(run.id)
    assert summary.flow_name == "squares"
    assert summary.state == "Success"
    return {(each.task_slug, each.map_index): states(each) for each in task_runs}


def states(task_run: TaskRunHistory) -> list[str]:
    return [record.state for record in task_run.states]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "squares.py").write_text(BLOCKS[0])
    return tmp_path


def test_there_are_three_ways_of_at_most_fifteen_lines() -> None:
    assert len(BLOCKS) == 3
    assert all(len(block.splitlines()) <= 15 for block in BLOCKS)
    assert all("await " in block or "asyncio.run(" in block for block in BLOCKS)


async def test_the_three_ways_end_in_the_same_states(folder: Path) -> None:
    bare = execute(BLOCKS[0], folder)
    assert bare.rstrip().endswith("[9, 16]")
    embedded = execute(BLOCKS[1], folder)
    with serving("sqlite:///server.db", cwd=folder) as url:
        assert SERVER in BLOCKS[2]
        remote = execute(BLOCKS[2].replace(SERVER, url), folder)
        listed = flowloop("runs", "--backend", url, cwd=folder).stdout
    assert re.search(r"squares +Success", listed)
    assert outcome(bare) == outcome(embedded) == outcome(remote) == "Success"

    ran = ["Pending", "Running", "Success"]
    expected = {
        ("numbers", -1): ran,
        ("square-1", -1): ["Pending", "Mapped"],
        ("square-1", 0): ran,
        ("square-1", 1): ran,
    }
    assert await recorded(f"sqlite:///{folder / 'runs.db'}") == expected
    assert await recorded(f"sqlite:///{folder / 'server.db'}") == expected


def test_the_commands_it_names_exist(folder: Path) -> None:
    commands = re.findall(r"^\$ flowloop (.+)$", README, re.MULTILINE) + re.findall(r"`flowloop (\w.*?)`", README)
    assert len(commands) >= 5
    for command in commands:
        name = command.split()[0]
        if not name.startswith("-"):
            assert flowloop(name, "--help", cwd=folder).returncode == 0, command


def test_the_commands_that_run_a_flow_work_as_printed(folder: Path) -> None:
    assert "$ flowloop run squares.py -p 'numbers=[3, 4]'" in README
    done = flowloop("run", "squares.py", "-p", "numbers=[3, 4]", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "home" / "flowloop.db").exists()


@pytest.mark.parametrize("command", ["demo", "test"])
def test_make_knows_the_two_commands(command: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    planned = subprocess.run(
        ["make", "--dry-run", command], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {"demo": "flowloop run examples/seattle_weather.py", "test": "-m pytest"}[command] in planned
    assert f"`make {command}`" in README
