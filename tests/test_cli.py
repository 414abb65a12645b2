"""The command line, as a person uses it: in processes of its own."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import re
import runpy
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flowloop.backends import connect
from flowloop.backends.cli import commands
from flowloop.backends.cli.commands import flowloop as command
from flowloop.engine.cloud import create_flow_run

from .commands import environment, flowloop, own_port, serving, start

FLOWS = """
import asyncio
import threading
import time

from flowloop.engine import Flow, Parameter, task


@task
def double(n: int) -> int:
    return 2 * n


@task
def add_up(numbers: list[int]) -> int:
    return sum(numbers)


@task
def lock() -> object:
    return threading.Lock()


@task
def locked(lock: object) -> bool:
    return lock.locked()


@task
async def sleep() -> None:
    print("asleep", flush=True)
    await asyncio.sleep(60)


@task
def nap() -> None:
    print("asleep", flush=True)
    time.sleep(60)


with Flow("doubles") as doubles:
    total = add_up(double.map(Parameter("numbers", type=list[int])))

with Flow("unstorable") as unstorable:
    locked(lock())

with Flow("sleeper") as sleeper:
    sleep()

with Flow("napper") as napper:
    nap()
"""

CYCLE = """
from flowloop.engine import Flow, Task


class Wait(Task):
    def run(self):
        pass


first, second = Wait(name="first"), Wait(name="second")
flow = Flow("circle")
flow.add_edge(first, second)
flow.add_edge(second, first)
"""

SLUGS = """
from flowloop.engine import Flow, Task


class Wait(Task):
    def run(self):
        pass


flow = Flow("twins", tasks=[Wait(slug="twin"), Wait(slug="twin")])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "flows.py").write_text(FLOWS)
    (tmp_path / "cycle.py").write_text(CYCLE)
    (tmp_path / "slugs.py").write_text(SLUGS)
    (tmp_path / "empty.py").write_text("answer = 42\n")
    (tmp_path / "broken.py").write_text("answer = 42\nanswer.run()\n")
    (tmp_path / "unreadable.py").write_text("with Flow(:\n")
    (tmp_path / "notes.txt").write_text("with Flow('x') as flow: pass\n")
    (tmp_path / "picture.db").write_bytes(b"\x89PNG" * 1000)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


# -- what works ------------------------------------------------------------------------------------------


def test_a_run_is_recorded_and_shown_with_every_state_of_every_child(folder: Path) -> None:
    ran = flowloop("run", "flows.py:doubles", "-p", "numbers=[1, 2, 3]", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"double-1 +│ Mapped 3: 3 Success +│ +1 ", ran.stdout)
    assert "doubles Success  All reference tasks succeeded." in ran.stdout
    hint = ran.stdout.splitlines()[-1].split()
    shown = flowloop(*hint[hint.index("show") :], cwd=folder)
    assert shown.returncode == 0, shown.stderr
    histories = {block.splitlines()[0].split("  ")[0]: block for block in shown.stdout.split("\n\n")[1:]}
    assert set(histories) == {"numbers", "double-1", "double-1[0]", "double-1[1]", "double-1[2]", "add_up-1"}
    for name, block in histories.items():
        states = re.findall(r"^  [\d:.]+ (\w+)", block, re.MULTILINE)
        assert states == (["Pending", "Mapped"] if name == "double-1" else ["Pending", "Running", "Success"])
    listed = flowloop("runs", cwd=folder)
    assert re.search(r"doubles +Success", listed.stdout)


def test_a_run_is_found_by_its_name_and_completed_in_the_shell(folder: Path) -> None:
    flowloop("run", "flows.py:doubles", "-p", "numbers=[]", cwd=folder)
    listed = flowloop("runs", cwd=folder)
    name = next(line.split()[0] for line in listed.stdout.splitlines() if "doubles" in line)
    assert flowloop("show", name, cwd=folder).stdout.startswith(f"doubles {name} Success")
    completing = {"_FLOWLOOP_COMPLETE": "bash_complete", "COMP_WORDS": f"flowloop show {name[:2]}", "COMP_CWORD": "2"}
    assert f"plain,{name}" in flowloop(cwd=folder, extra=completing).stdout.split()


@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [("flowloop r", 1, "plain,run"), ("flowloop run --b", 2, "plain,--backend"), ("flowloop db ", 2, "plain,prune")],
)
def test_words_are_completed_in_the_shell(folder: Path, words: str, place: int, expected: str) -> None:
    extra = {"_FLOWLOOP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    assert expected in flowloop(cwd=folder, extra=extra).stdout.split("\n")


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["run"],
        ["server"],
        ["worker"],
        ["runs"],
        ["show"],
        ["db"],
        ["db", "prune"],
        ["db", "upgrade"],
        ["db", "create-key"],
    ],
)
def test_each_command_has_help(command: list[str]) -> None:
    shown = CliRunner().invoke(commands.flowloop, [*command, "--help"], prog_name="flowloop")
    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: {' '.join(['flowloop', *command])} ")


def test_a_run_goes_through_a_server_of_another_process(folder: Path) -> None:
    with serving("sqlite:///served.db", cwd=folder) as url:
        ran = flowloop("run", "flows.py:doubles", "-p", "numbers=[1, 2]", "--backend", url, cwd=folder)
        assert ran.returncode == 0, ran.stderr
        hint = ran.stdout.splitlines()[-1].split()
        shown = flowloop(*hint[hint.index("show") :], cwd=folder)
    assert "double-1[1]" in shown.stdout
    assert re.search(r"doubles +Success", flowloop("runs", "--backend", "sqlite:///served.db", cwd=folder).stdout)


@pytest.mark.parametrize("flow", ["sleeper", "napper"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stopped_run_ends_with_its_states_written(folder: Path, number: signal.Signals, flow: str) -> None:
    with start("run", f"flows.py:{flow}", cwd=folder) as process:
        assert process.stdout is not None
        while "asleep" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == (130 if number is signal.SIGINT else 1)
    listed = flowloop("runs", cwd=folder)
    assert re.search(rf"{flow} +Cancelled", listed.stdout)


async def test_a_worker_runs_what_others_create_until_it_is_stopped(folder: Path) -> None:
    with start("worker", "flows.py:doubles", "--backend", "sqlite:///work.db", cwd=folder) as process:
        assert process.stdout is not None
        assert "flowloop works on doubles in sqlite:///work.db" in process.stdout.readline()
        async with connect(f"sqlite:///{folder / 'work.db'}") as backend:
            flow = runpy.run_path(str(folder / "flows.py"))["doubles"]
            flow_run_id = await create_flow_run(flow, backend, {"numbers": [1, 2]})
            async with asyncio.timeout(60):
                while not (await backend.get_flow_run_state(flow_run_id)).is_finished():
                    await asyncio.to_thread(process.stdout.readline)  # the worker logs the beginning and the end
            assert (await backend.get_flow_run_state(flow_run_id)).is_successful()
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_database_is_made_and_upgraded(folder: Path) -> None:
    made = flowloop("db", "upgrade", "--db", "sqlite:///new.db", cwd=folder)
    assert made.returncode == 0, made.stderr
    assert re.fullmatch(r"upgraded from nothing to \d+\n", made.stdout)
    again = flowloop("db", "upgrade", "--db", "sqlite:///new.db", cwd=folder)
    assert re.fullmatch(r"at version \d+ already\n", again.stdout)
    with closing(sqlite3.connect(folder / "new.db", isolation_level=None)) as database:
        database.execute("UPDATE flowloop_version SET version_num = '0000'")
    old = flowloop("runs", "--backend", "sqlite:///new.db", cwd=folder)
    assert old.returncode == 1
    assert "flowloop db upgrade --db sqlite:///new.db" in old.stderr
    assert len(old.stderr.splitlines()) == 1


def test_old_runs_are_pruned(folder: Path) -> None:
    flowloop("run", "flows.py:doubles", "-p", "numbers=[1]", cwd=folder)
    assert "flow_run: 0 deleted" in flowloop("db", "prune", "--older-than", "1d", cwd=folder).stdout
    assert "doubles" in flowloop("runs", cwd=folder).stdout
    assert "flow_run: 1 deleted" in flowloop("db", "prune", "--older-than", "0s", cwd=folder).stdout
    assert "doubles" not in flowloop("runs", cwd=folder).stdout


def test_a_key_may_be_less_than_one_that_writes(folder: Path) -> None:
    for may in ("answer", "run"):
        flowloop("db", "create-key", may, "--may", may, "--db", "sqlite:///keys.db", cwd=folder)
    with closing(sqlite3.connect(folder / "keys.db")) as connection:
        kept = dict(connection.execute("SELECT name, scopes FROM api_key"))
    assert {name: json.loads(scopes) for name, scopes in kept.items()} == {
        "answer": ["answer", "read"],
        "run": ["read", "run"],
    }
    both = ("db", "create-key", "x", "--read-only", "--may", "run", "--db", "sqlite:///keys.db")
    assert "give one of them" in flowloop(*both, cwd=folder).stderr


def test_keys_are_listed_and_revoked(tmp_path: Path) -> None:
    db = ("--db", f"sqlite:///{tmp_path}/keys.db")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(command, ["db", *arguments, *db])

    run("create-key", "ci", "--expires", "30d")
    run("create-key", "page", "--read-only")
    run("create-key", "page")
    first, second, third = map(json.loads, run("keys", "--json").output.splitlines())
    assert (first["name"], second["expires_at"], third["last_used_at"]) == ("ci", None, None)
    lived = datetime.datetime.fromisoformat(first["expires_at"]) - datetime.datetime.fromisoformat(first["created"])
    assert abs(lived - datetime.timedelta(days=30)) < datetime.timedelta(hours=1)
    assert "page  read  for ever  last used never" in run("keys").output
    assert "2 API keys are named 'page': give the id" in str(run("revoke-key", "page").output)
    assert "there is no API key 'nobody'" in run("revoke-key", "nobody").output
    assert run("revoke-key", third["id"]).output == "revoked page\n"
    assert run("revoke-key", "page").exit_code == 0
    assert [json.loads(line)["name"] for line in run("keys", "--json").output.splitlines()] == ["ci"]


def test_a_server_that_asks_for_keys_takes_one_that_was_made_for_it(folder: Path) -> None:
    made = flowloop("db", "create-key", "ci", "--db", "sqlite:///served.db", cwd=folder)
    only_reads = flowloop("db", "create-key", "page", "--read-only", "--db", "sqlite:///served.db", cwd=folder)
    required = {"FLOWLOOP_SERVER_REQUIRE_API_KEY": "true"}
    with serving("sqlite:///served.db", cwd=folder, extra=required) as url:
        run = ["run", "flows.py:doubles", "-p", "numbers=[1]", "--backend", url]
        for key in ("", "wrong", only_reads.stdout.strip()):
            refused = flowloop(*run, cwd=folder, extra={"FLOWLOOP_API_KEY": key})
            assert refused.returncode == 1
            assert refused.stderr.startswith("Error: ")
            assert "Traceback" not in refused.stderr
        key = {"FLOWLOOP_API_KEY": made.stdout.strip()}
        assert flowloop(*run, cwd=folder, extra=key).returncode == 0
        listed = flowloop("runs", "--backend", url, cwd=folder, extra={"FLOWLOOP_API_KEY": only_reads.stdout.strip()})
    assert re.search(r"doubles +Success", listed.stdout)


# -- what does not ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.py"], "there is no file 'nowhere.py'"),
        (["run", "nowhere.py:flow"], "there is no file 'nowhere.py'"),
        (["run", "notes.txt"], "notes.txt is not a Python file: its name must end in .py"),
        (["run", "empty.py"], "empty.py defines no flow: a flow is a variable of the file, as in"),
        (
            ["run", "flows.py"],
            "defines 4 flows: say flows.py:FLOW with one of doubles, napper, sleeper, unst",
        ),
        (
            ["run", "flows.py:nonesuch"],
            "defines no flow 'nonesuch'; it defines: doubles, napper, sleeper, unstorable",
        ),
        (["run", "broken.py"], "broken.py:2: AttributeError: 'int' object has no attribute 'run'"),
        (["run", "unreadable.py"], "unreadable.py:1: SyntaxError: "),
        (["run", "cycle.py"], "cycle"),
        (["run", "slugs.py"], "slugs.py:10: flow 'twins': two tasks have the slug 'twin'"),
        (["run", "flows.py:doubles"], "flow 'doubles' needs the parameter 'numbers', which was not given"),
        (["run", "flows.py:doubles", "-p", "number=1"], "has no parameter 'number'; it has: numbers"),
        (["run", "flows.py:doubles", "-p", "numbers=many"], "parameter 'numbers': 'many' is not list[int]"),
        (["run", "flows.py:doubles", "-p", "numbers"], "a parameter is given as KEY=VALUE, not as 'numbers'"),
        (["run", "flows.py:sleeper", "--backend", "ftp://x"], "no backend serves 'ftp:'"),
        (["run", "flows.py:sleeper", "--backend", "nothing"], "no backend serves 'nothing'"),
        (["run", "flows.py:sleeper", "--backend", "sqlite:///picture.db"], "picture.db"),
        (["run", "flows.py:sleeper", "--backend", "sqlite:////proc/flowloop.db"], "/proc/flowloop.db"),
        (["run", "flows.py:sleeper", "--backend", "sqlite:///notes.txt/runs.db"], "notes.txt"),
        (["server", "--db", "sqlite:///picture.db", "--port", "0"], "picture.db"),
        (["server", "--host", "192.0.2.1", "--port", "0"], "cannot listen on 192.0.2.1"),
        (["show", "nonesuch", "--backend", "memory://"], "nonesuch"),
        (["db", "prune", "--older-than", "a while"], "an age is a number and one of d, h, m and s"),
        (["db", "prune", "--older-than", "99999999d"], "an age is at most 36500d"),
        (["db", "create-key", "ci", "--expires", "9" * 400 + "s"], "an age is at most 36500d"),
    ],
)
def test_bad_input_is_one_clear_line_and_writes_nothing(folder: Path, arguments: list[str], message: str) -> None:
    before = files(folder)
    done = flowloop(*arguments, cwd=folder)
    assert done.returncode not in (0, -signal.SIGTERM)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    assert message in lines[0]
    assert files(folder) == before


def test_a_port_in_use_is_said_and_no_database_made(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        done = flowloop("server", "--db", "sqlite:///new.db", "--port", port, cwd=folder)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"Error: cannot listen on 127.0.0.1 port {port}: Address already in use")
    assert not (folder / "new.db").exists()


def test_a_server_that_is_not_there_is_waited_for_and_then_said(folder: Path) -> None:
    limit = {"FLOWLOOP_OUTAGE_LIMIT": "0.5"}
    with own_port() as port:
        url = f"http://127.0.0.1:{port}"
        done = flowloop("run", "flows.py:sleeper", "--backend", url, cwd=folder, extra=limit)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"Error: {url} is unavailable, and was waited for 0.5 s")
    assert "Traceback" not in done.stderr


def test_a_database_that_is_read_only_is_said(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write to every file")
    with closing(sqlite3.connect(folder / "locked.db")) as database:
        database.execute("CREATE TABLE something (x)")
    (folder / "locked.db").chmod(0o444)
    done = flowloop("run", "flows.py:sleeper", "--backend", "sqlite:///locked.db", cwd=folder)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "locked.db" in done.stderr


def test_a_result_that_cannot_be_stored_fails_the_task_that_made_it(folder: Path) -> None:
    done = flowloop("run", "flows.py:unstorable", cwd=folder)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("lock-1 Failed")]
    assert len(failed) == 1
    assert "lock" in failed[0]
    assert not any(path.is_file() for path in (folder / "home" / "results").rglob("*"))


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("click", "runs", "cli"),
        ("rich", "runs", "cli"),
        ("uvicorn", "server", "server"),
        ("sqlalchemy", "runs", "store"),
    ],
)
def test_without_the_extra_the_remedy_is_named(folder: Path, missing: str, command: str, extra: str) -> None:
    main = f"import sys; sys.modules[{missing!r}] = None; from flowloop.backends.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", main, command],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: ")
    assert f"pip install 'flowloop[{extra}]'" in done.stderr


def test_a_bad_setting_is_named(folder: Path) -> None:
    done = flowloop("runs", cwd=folder, extra={"FLOWLOOP_THREAD_LIMIT": "many"})
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "thread_limit" in done.stderr
