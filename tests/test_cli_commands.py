"""The commands that look at runs and steer them: what they do, what they print, and the shapes that are documented."""

from __future__ import annotations

import asyncio
import datetime
import getpass
import http.server
import json
import logging
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import pytest
from click.testing import CliRunner, Result

from flowloop.backends import connect
from flowloop.backends.cli.commands import flowloop as command
from flowloop.backends.cli.display import history, safe
from flowloop.backends.isolation import LEFT
from flowloop.backends.store import Store
from flowloop.engine.backend import Backend, FlowRunSummary, LogRecord, StateRecord, TaskRunHistory
from flowloop.engine.schedules import IntervalSchedule, serialize_schedule
from flowloop.engine.state import Failed, Mapped, Paused, Running, State, Success

from .backends.runs import Started, flow_document, started
from .commands import ROOT, environment, flowloop, start

T = TypeVar("T")

DAILY = serialize_schedule(
    IntervalSchedule(interval=datetime.timedelta(days=1), start_date=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC))
)

FLOWS = """
import asyncio
from flowloop.engine import Flow, Parameter, Secret, context, subflow, task, unmapped

@task(max_retries=1, retry_delay=0)
def fails(n, token):
    context.logger.warning("token %s", token)
    raise ValueError(f"row {n} with {token}")

with Flow("failing") as failing:
    fails.map([4], token=unmapped(Secret("TOKEN")), task_args={"name": "transform"})

with Flow("inner") as inner:
    fine = task(lambda n: n, name="fine")
    fine(Parameter("n"))

with Flow("outer") as outer:
    subflow(inner, name="part").map(n=[1, 2])
"""


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    logger = logging.getLogger("flowloop")
    before = logger.level, list(logger.handlers), logger.propagate
    yield
    logger.level, logger.handlers, logger.propagate = before


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWLOOP_HOME", str(tmp_path))
    monkeypatch.setenv("FLOWLOOP_SECRET__TOKEN", "hunter2!")
    monkeypatch.setenv("FLOWLOOP_SECRET_KEY", "a key")
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path


def invoke(*arguments: str, code: int = 0, given: str | None = None) -> Result:
    result = CliRunner().invoke(command, arguments, input=given, prog_name="flowloop")
    assert result.exit_code == code, result.output
    return result


def on_database(home: Path, work: Callable[[Backend], Awaitable[T]]) -> T:
    async def opened() -> T:
        async with connect(f"sqlite:///{home / 'flowloop.db'}", synchronous="OFF") as backend:
            return await work(backend)

    return asyncio.run(opened())


def recorded(home: Path, *states: State, flow: State | None = None, tasks: int = 2) -> Started:
    """Return a run with a name whose first task went through these states."""

    async def work(backend: Backend) -> Started:
        run = await started(backend, tasks=tasks)
        for version, state in enumerate(states, 1):
            await backend.set_task_run_state(run.tasks[0].id, version, state)
        if flow is not None:
            await backend.set_flow_run_state(run.id, 2, flow)
        return run

    return on_database(home, work)


def documents(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


# -- looking -------------------------------------------------------------------------------------------


def test_runs_are_listed_by_what_is_asked_and_those_of_later_only_if_asked(home: Path) -> None:
    run = recorded(home, Success("done"), flow=Success("done"))
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)

    async def plan(backend: Backend) -> str:
        return await backend.create_flow_run(run.info.flow_id, name="tomorrow", scheduled_start_time=later)

    planned = on_database(home, plan)

    def ids(*arguments: str) -> list[str]:
        return [line["id"] for line in documents(invoke("runs", "--json", *arguments))]

    assert ids() == ids("--state", "success") == ids("--search", run.info.name) == ids("--flow", "etl") == [run.id]
    assert ids("--all") == [planned, run.id]
    assert ids("--since", "1h") == [run.id]
    assert ids("--until", "2020-01-01") == ids("--flow", "other") == []
    assert f"{later.astimezone():%Y-%m-%d %H:%M}" in invoke("runs", "--all").stdout
    assert "There are no such runs in sqlite:///" in invoke("runs", "--state", "Paused").stdout.replace("\n", "")
    on_database(home, lambda backend: backend.create_flow_run(run.info.flow_id, name="n" * 200))
    assert re.search(f"^ +{'n' * 200} +etl ", invoke("runs", "--all").stdout, re.MULTILINE), "a pipe has no width"
    assert "a moment is a date" in invoke("runs", "--since", "soon", code=1).output


def test_a_run_with_many_children_is_counted_unless_all_is_asked_for(home: Path) -> None:
    async def work(backend: Backend) -> str:
        run = await started(backend, tasks=1)
        await backend.set_task_run_state(run.tasks[0].id, 1, Mapped("many", n_map_states=300))
        children = await backend.get_task_run_infos(run.id, run.tasks[0].task_id, range(300))
        failed = Failed("child 7 failed", context={"traceback": 'File "mine.py", line 3'})
        await asyncio.gather(
            *(backend.set_task_run_state(child.id, 1, Success("done")) for child in children if child.map_index != 7)
        )
        await backend.set_task_run_state(children[7].id, 1, failed)
        return run.id

    run_id = on_database(home, work)
    shown = invoke("show", run_id).stdout
    assert "task-1  299 Success, 1 Failed" in shown
    assert 'File "mine.py", line 3' in shown
    assert len(shown.splitlines()) < 20
    everything = invoke("show", run_id, "--all").stdout
    assert "  its children  299 Success, 1 Failed\n" in everything
    assert len(everything.splitlines()) > 900
    (only,) = documents(invoke("show", run_id, "--failed", "--json"))[0]["task_runs"]
    assert (only["map_index"], only["states"][-1]["traceback"]) == (7, 'File "mine.py", line 3')
    assert [
        each["map_index"] for each in documents(invoke("show", run_id, "--task", "task-1[3]", "--json"))[0]["task_runs"]
    ] == [3]


def test_a_task_run_took_as_long_as_its_attempts_without_what_it_waited_between_them() -> None:
    noon = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)
    went = [("Running", 0), ("Failed", 2), ("Retrying", 2), ("Running", 62), ("Failed", 65)]
    again = [("Pending", 3600), ("Running", 3601), ("Success", 3602)]
    states = [
        StateRecord(n, noon + datetime.timedelta(seconds=at), name, None) for n, (name, at) in enumerate(went + again)
    ]
    end = states[-1].timestamp
    run = FlowRunSummary("run", "lynx", "etl", "Success", None, noon, noon, end)
    shown = "\n".join(map(str, history(run, [TaskRunHistory("id", "task-1", -1, None, states, noon, end)])))
    assert "task-1  6.00 s\n" in shown
    shown = "\n".join(map(str, history(run, [TaskRunHistory("id", "task-1", -1, None, states[:4], noon, None)])))
    assert "task-1\n" in shown, "it still runs"


def test_artifacts_are_shown_with_their_task_run(home: Path) -> None:
    left = {
        "markdown": {"markdown": "# report\x1b[31m"},
        "link": {"link": "https://example.org", "text": "the page"},
        "table": [{"n[bold]": 1, "letter": "x"}, {"letter": None}] * 30,
        "progress": {"progress": 0.5, "label": "rows"},
        "foreign": [1, {"a": 2}],
    }

    async def work(backend: Backend) -> Started:
        run = await started(backend, tasks=2)
        for kind, data in left.items():
            await backend.create_task_run_artifact(run.tasks[0].id, kind, data)
        return run

    run = on_database(home, work)
    shown = invoke("show", run.id).stdout
    for words in (
        "# report\\x1b[31m",
        "the page https://example.org",
        "n[bold]",
        "and 10 more rows",
        "50% rows",
        '"a": 2',
    ):
        assert words in shown
    document = documents(invoke("show", run.id, "--json"))[0]
    assert {one["kind"]: one["data"] for one in document["artifacts"]} == left
    assert {one["task_run_id"] for one in document["artifacts"]} == {run.tasks[0].id}
    assert documents(invoke("show", run.id, "--task", "task-2", "--json"))[0]["artifacts"] == []


def test_flows_that_run_as_tasks_are_told_where_they_are(home: Path) -> None:
    told = invoke("run", str(home / "flows.py:outer"))
    assert "part-1[1] > fine-1 Success" in told.stdout
    line = documents(invoke("run", str(home / "flows.py:outer"), "--json"))[-1]
    parts = documents(invoke("show", line["id"], "--json"))[0]["parts"]
    assert {part["name"].partition("-part")[2] for part in parts} == {"[0]", "[1]"}
    assert f"flow run {parts[0]['name']} Success  {parts[0]['id']}" in invoke("show", line["id"]).stdout
    assert f"its task run {parts[0]['parent_task_run_id']}" in invoke("show", parts[0]["id"]).stdout
    listed = [run["flow_name"] for run in documents(invoke("runs", "--json"))]
    assert listed == ["outer", "outer"]
    assert len(documents(invoke("runs", "--json", "--all"))) == 6


def test_logs_are_printed_and_shown_with_the_run(home: Path) -> None:
    run = recorded(home, Success("done"), flow=Success("done"))
    now = datetime.datetime.now(datetime.UTC)
    line = LogRecord(run.id, run.tasks[0].id, now, "flowloop.run", "ERROR", "it broke\nhere \x1b[31m")
    on_database(home, lambda backend: backend.write_run_logs([line]))
    for shown in (invoke("logs", run.id, "-f").stdout, invoke("show", run.id, "--logs", "--tree").stdout):
        assert re.search(r"ERROR +task-1: it broke\nhere \\x1b\[31m", shown)
    assert documents(invoke("logs", run.id, "--json"))[0]["message"] == "it broke\nhere \x1b[31m"


def test_wait_and_watch_end_as_the_run_did(home: Path) -> None:
    good = recorded(home, Success("done"), flow=Success("done"))
    bad = recorded(home, Failed("no"), flow=Failed("no"))
    going = recorded(home, Running("go"))
    invoke("wait", good.id)
    invoke("wait", good.id, bad.id, code=1)
    invoke("wait", going.id, "--timeout", "0.1", "--interval", "0.05", code=124)
    assert re.search(r"^[\d:]+ task-1 Failed: no$", invoke("watch", bad.id, code=1).stdout, re.MULTILINE)


# -- steering ------------------------------------------------------------------------------------------


def test_runs_are_cancelled_and_restarted_one_by_one_or_by_a_filter(home: Path) -> None:
    first, second = recorded(home, Running("go")), recorded(home, Running("go"))
    assert f"{first.info.name} is Cancelling" in invoke("cancel", first.info.name).stdout
    assert "name the runs to cancel" in invoke("cancel", code=1).output
    asked = invoke("cancel", "--state", "Running", given="n\n", code=1).output
    assert "Cancel 1 flow run? [y/N]" in asked
    assert invoke("cancel", "--state", "Running", "--yes").stdout == f"{second.info.name} is Cancelling\n"
    failed = recorded(home, Failed("no"), flow=Failed("no"))
    assert f"{failed.info.name} is Scheduled" in invoke("restart", failed.id).stdout
    assert "only a finished flow run can be restarted" in invoke("restart", failed.id, code=1).output


@pytest.mark.parametrize(("verb", "state"), [("resume", "Resume"), ("approve", "Resume"), ("reject", "Failed")])
def test_what_is_paused_is_decided_by_a_person_whose_name_is_recorded(home: Path, verb: str, state: str) -> None:
    run = recorded(home, Running("go"), Paused("wait"))
    assert "is for what is Paused" in invoke(verb, run.id, "task-2", code=1).output
    invoke(verb, run.info.name, *(["task-1"] if verb == "resume" else []), "--note", "looked at it")
    newest = documents(invoke("show", run.id, "--task", "task-1", "--json"))[0]["task_runs"][0]["states"][-1]
    assert newest["state"] == state
    assert newest["message"].endswith(f" by {getpass.getuser()}: looked at it")
    assert "is for what is Paused" in invoke(verb, run.id, code=1).output


def test_what_has_not_begun_is_skipped_or_given_a_result(home: Path) -> None:
    run = recorded(home, Running("go"), tasks=3)
    invoke("skip", run.id, "task-2")
    invoke("set-result", run.id, "task-3[4]", '{"a": 1}', "--note", "by hand")
    invoke("event", run.id, "approved", "--value", "7")
    assert "is for what has not begun" in invoke("skip", run.id, "task-1", code=1).output
    asked = on_database(home, lambda backend: backend.list_directives(run.id))
    assert [(one.kind, one.task, one.map_index, one.value, one.note) for one in asked] == [
        ("skip", "task-2", -1, None, None),
        ("set_result", "task-3", 4, {"a": 1}, "by hand"),
        ("event", "approved", -1, 7, None),
    ]


def test_runs_are_created_one_or_one_for_each_date(home: Path) -> None:
    parameters = [{"name": "day", "slug": "day", "required": True, "default": None}]
    document = flow_document("nightly", parameters=parameters)
    on_database(home, lambda backend: backend.register_flow(document, project_name="demo"))
    urgent = ("--priority", "5", "--fairness-key", "ours")
    (made,) = documents(invoke("create", "nightly", "-p", 'day="today"', "--name", "one", *urgent, "--json"))
    assert (made["name"], made["state"]) == ("one", "Scheduled")
    many = invoke(
        *("create", "nightly", "-p", "day={date}", "--name", "of {date}"),
        *("--every", "1d", "--from", "2024-02-28", "--to", "2024-03-01", "--json"),
    )
    assert [line["name"] for line in documents(many)] == ["of 2024-02-28", "of 2024-02-29"]

    async def day(backend: Backend) -> Any:
        return (await backend.get_flow_run_info(documents(many)[1]["id"])).parameters

    assert on_database(home, day) == {"day": "2024-02-29"}
    assert "there is no flow 'weekly'" in invoke("create", "weekly", code=1).output
    assert "go together" in invoke("create", "nightly", "--every", "1d", code=1).output


def test_many_runs_are_deleted_after_a_question_and_one_that_is_refused_stops_no_other(home: Path) -> None:
    done = [recorded(home, flow=Failed("no")) for _ in range(2)]
    going = recorded(home, Running("go"))
    refused = invoke("restart", "--flow", "etl", "--yes", code=1)
    assert f"{going.info.name}: " in refused.stderr
    assert "1 of 3 flow runs were left as they are" in refused.stderr
    assert len(refused.stdout.splitlines()) == 2
    asked = invoke("delete", "--flow", "etl", "--state", "Scheduled", code=1, given="n\n")
    assert "Delete 2 flow runs?" in asked.output
    invoke("delete", "--flow", "etl", "--state", "Scheduled", given="y\n")
    assert {run["id"] for run in documents(invoke("runs", "--json", "--all"))} == {going.id}
    invoke("show", done[0].id, code=1)


def test_schedules_and_limits_are_set(home: Path) -> None:
    document = flow_document("daily", schedule=DAILY, parameters=[DAY])
    on_database(home, lambda backend: backend.register_flow(document, project_name="demo"))
    invoke("schedule", "off", "daily")
    assert invoke("schedule", "next", "daily").stdout == "No runs of daily are planned.\n"
    invoke("schedule", "on", "daily")
    assert [flow["schedule_active"] for flow in documents(invoke("flows", "--json"))] == [True]
    invoke("limits", "set", "tag", "db", "3")
    assert invoke("limits").stdout == "tag db: 3\n"
    assert invoke("limits", "set", "rate", "db", "10", "--per", "60").stdout == "rate db: 10 per 60 s\n"
    assert invoke("limits").stdout == "tag db: 3\nrate db: 10 per 60 s\n"
    assert "--per SECONDS" in invoke("limits", "set", "rate", "db", "10", code=1).stderr
    assert "--per SECONDS" in invoke("limits", "set", "tag", "db", "10", "--per", "1", code=1).stderr
    invoke("limits", "remove", "rate", "db")
    invoke("limits", "remove", "tag", "db")
    assert "Nothing is limited" in invoke("limits").stdout


# -- shapes --------------------------------------------------------------------------------------------


def shapes() -> dict[str, set[str]]:
    """Return the fields that docs/cli.md documents for each command."""
    section = (ROOT / "docs/cli.md").read_text(encoding="utf-8").partition("## JSON")[2]
    found = {}
    for row in re.findall(r"^\| (`.*) \| (.*) \|$", section, re.MULTILINE):
        for name in re.findall(r"`([a-z -]+)`", row[0]):
            found[name] = set(re.findall(r"`([a-z_]+)`", row[1]))
    for name in ("show", "watch"):
        found[name] |= found["runs"]
    found["show"] |= found["logs"]
    return found


def all_keys(document: Any) -> set[str]:
    if isinstance(document, dict):
        return {*document, *(key for value in document.values() for key in all_keys(value))}
    return {key for value in document for key in all_keys(value)} if isinstance(document, list) else set()


DAY = {"name": "day", "slug": "day", "required": False, "default": 1}


async def plan(backend: Backend) -> FlowRunSummary:
    (flow,) = [flow for flow in await backend.list_flows() if flow.name == "daily"]
    return await backend.find_flow_run(await backend.create_flow_run(flow.id, name="planned"))


@pytest.fixture
def hook() -> Iterator[str]:
    """A URL that takes what is posted there."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook"
        server.shutdown()
        thread.join()


def test_every_command_prints_json_in_the_shape_that_is_documented(home: Path, hook: str) -> None:
    done = recorded(home, Running("go"), Failed("no"), flow=Failed("no"))
    paused = recorded(home, Running("go"), Paused("wait"))
    again, third = recorded(home, Paused("wait")), recorded(home, Paused("wait"))
    document = flow_document("daily", schedule=DAILY, parameters=[DAY])
    on_database(home, lambda backend: backend.register_flow(document, project_name="demo"))
    planned = on_database(home, plan)
    now = datetime.datetime.now(datetime.UTC)
    on_database(home, lambda backend: backend.write_run_logs([LogRecord(done.id, None, now, "x", "INFO", "y")]))
    on_database(home, lambda backend: backend.create_task_run_artifact(done.tasks[0].id, "markdown", "# it"))
    calls: dict[str, tuple[int, tuple[str, ...]]] = {
        "runs": (0, ()),
        "show": (0, (done.id, "--logs")),
        "logs": (0, (done.id,)),
        "wait": (1, (done.id,)),
        "watch": (1, (done.id,)),
        "flows": (0, ()),
        "create": (0, ("etl",)),
        "schedule on": (0, ("daily",)),
        "schedule next": (0, ("daily",)),
        "schedule off": (0, ("daily",)),
        "limits set": (0, ("tag", "db", "3")),
        "limits": (0, ()),
        "limits remove": (0, ("tag", "db")),
        "resume": (0, (paused.id,)),
        "approve": (0, (again.id,)),
        "reject": (0, (third.id,)),
        "skip": (0, (paused.id, "task-2")),
        "set-result": (0, (again.id, "task-2", "3")),
        "event": (0, (third.id, "approved")),
        "hold": (0, (third.id, "task-2")),
        "release": (0, (third.id, "task-2")),
        "set-limits": (0, (third.id, "--concurrency", "2")),
        "set-parameter": (0, (planned.id, "day", "3")),
        "restart": (0, (done.id,)),
        "notify add": (0, ("failures", "--on", "Failed", "--webhook", hook)),
        "notify": (0, ()),
        "notify test": (0, ("failures",)),
        "notify remove": (0, ("failures",)),
        "secrets set": (0, ("TOKEN",)),
        "secrets": (0, ()),
        "secrets remove": (0, ("TOKEN",)),
        "cancel": (0, (done.id,)),
        "run": (1, (str(home / "flows.py:failing"),)),
        "delete": (0, (done.id, "--yes")),
        "db keys": (0, ("--db", f"sqlite:///{home / 'flowloop.db'}")),
    }
    invoke("db", "create-key", "ann", "--db", f"sqlite:///{home / 'flowloop.db'}")
    documented = shapes()
    assert set(calls) == set(documented)

    async def plan_dates(backend: Backend) -> None:
        async with Store(f"sqlite:///{home / 'flowloop.db'}", synchronous="OFF") as store:
            await store.run_scheduler()

    for name, (code, arguments) in calls.items():
        if name == "schedule next":
            on_database(home, plan_dates)
        printed = documents(invoke(*name.split(), *arguments, "--json", code=code, given="a value"))
        assert printed, name
        keys = all_keys(printed)
        if name in ("run", "watch"):
            assert keys <= documented[name] | {"task"}, name
        else:
            assert keys == documented[name], name


# -- a failure, wherever one looks -----------------------------------------------------------------------

LINE = 'raise ValueError(f"row {n} with {token}")'


def check(text: str, *, name: str = "transform") -> None:
    assert "flows.py" in text
    assert LINE in text
    assert "row 4 with ***" in text
    assert name in text
    assert "hunter2!" not in text


def test_a_failure_explains_itself_in_a_pipe_in_show_and_in_the_log(home: Path) -> None:
    extra = {"FLOWLOOP_HOME": str(home), "FLOWLOOP_SECRET__TOKEN": "hunter2!"}
    ran = flowloop("run", "flows.py:failing", cwd=home, extra=extra)
    assert ran.returncode == 1
    check(ran.stdout)
    assert "transform[0]: attempt 1 of 2 failed, next in 0 s: ValueError: row 4 with ***" in ran.stdout
    assert re.search(r"^[\d:]+ transform-1\[0\] Retrying$", ran.stdout, re.MULTILINE)
    assert "transform[0]: token ***" in ran.stdout
    quiet = flowloop("run", "flows.py:failing", "-q", cwd=home, extra=extra)
    check(quiet.stdout)
    assert "Recorded in" not in quiet.stdout
    (line, *_) = documents(invoke("runs", "--json"))
    check(invoke("show", line["id"]).stdout)
    check(invoke("logs", line["id"]).stdout)


SERVICE = """
import asyncio
import sys

import uvicorn
from starlette.applications import Starlette

sys.path.insert(0, ".")
from flows import failing
from flowloop.backends import connect
from flowloop.engine.cloud import CloudFlowRunner


async def main():
    server = uvicorn.Server(uvicorn.Config(Starlette(), port=0))

    async def background():
        async with connect("memory://") as backend:
            await CloudFlowRunner(failing, backend=backend).run()
        server.should_exit = True

    running = asyncio.create_task(background())
    await server.serve()
    await running

asyncio.run(main())
"""


def test_a_failure_in_the_background_of_a_web_server_is_seen_in_its_log(home: Path) -> None:
    (home / "service.py").write_text(SERVICE)
    extra = {"FLOWLOOP_SECRET__TOKEN": "hunter2!"}
    served = subprocess.run(
        [sys.executable, "service.py"],
        cwd=home,
        env=environment(home, extra),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    check(served.stderr)
    assert "Uvicorn running" in served.stderr
    assert served.stderr.count("of 'failing' failed: 1 of 1 reference tasks failed: transform[0] (ValueError: ") == 1


def test_a_failure_is_explained_in_the_log_of_a_worker(home: Path) -> None:
    extra = {"FLOWLOOP_HOME": str(home), "FLOWLOOP_SECRET__TOKEN": "hunter2!"}
    process = start("worker", "flows.py:failing", cwd=home, extra=extra)
    assert process.stdout is not None
    seen = [process.stdout.readline()]
    invoke("create", "failing")
    while "is Failed: " not in seen[-1]:
        seen.append(process.stdout.readline())
        assert seen[-1], seen
    process.terminate()
    process.communicate(timeout=60)
    check("".join(seen))
    assert "of 'failing' is Failed: 1 of 1 reference tasks failed: transform[0] (ValueError: row 4" in seen[-1]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢字 🎉", "plain é 漢字 🎉"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\nc\td", "a\\rb\\nc\\td"),
        ("\u202eright\u2028", "\\u202eright\\u2028"),
        ("\x9b31m\udcff", "\\x9b31m\\udcff"),
    ],
)
def test_what_would_control_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert safe(text) == shown
    assert safe("a\n\tb", lines=True) == "a\n\tb"


# -- ends ----------------------------------------------------------------------------------------------


def every_command(group: click.Group = command, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command, and the words that call it."""
    yield words, group
    for name, each in group.commands.items():
        if isinstance(each, click.Group):
            yield from every_command(each, *words, name)
        else:
            yield (*words, name), each


def test_help_tells_every_command_in_whole_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words, each in every_command():
        shown = invoke(*words, "-h").stdout
        assert shown.startswith(f"Usage: {' '.join(['flowloop', *words])} ")
        assert "\\" not in shown, words
        assert safe(shown, lines=True) == shown, words
        assert not re.search(r"[a-z]\.\.\.$", shown, re.MULTILINE), words
        assert max(map(len, shown.splitlines())) <= 80, words
        assert all(option.help for option in each.params if isinstance(option, click.Option)), words


def test_every_command_that_prints_json_is_documented() -> None:
    printing = {
        " ".join(words) for words, each in every_command() if any(option.name == "as_json" for option in each.params)
    }
    assert printing == set(shapes())


def test_what_is_not_there_is_said_with_where_and_what_is_like_it(home: Path) -> None:
    run = recorded(home, Success("done"), flow=Success("done"))
    (line,) = documents(invoke("runs", "--json"))
    for words in (("show",), ("logs",), ("watch",), ("wait",), ("cancel",), ("hold", "--tag", "db"), ("set-limits",)):
        more = ("--concurrency", "2") if words == ("set-limits",) else ()
        printed = invoke(words[0], line["name"] + "x", *words[1:], *more, code=1).stderr
        assert printed.startswith("Error: ")
        assert f"flowloop.db; did you mean {line['name']}?" in printed
        assert printed.count("\n") == 1
    assert "`flowloop runs --all` lists what is there." in invoke("show", "0000", code=1).stderr
    assert run.id == line["id"]
    assert "Nobody is told of anything" in invoke("notify").stdout
    assert "No runs of etl are planned." in invoke("schedule", "next", "etl").stdout


def test_a_run_is_created_with_what_its_flow_takes_and_with_nothing_else(home: Path) -> None:
    parameters = [
        {"name": "n", "required": True, "schema": {"type": "integer"}},
        {"name": "text", "required": False, "schema": {"type": "string"}},
    ]
    on_database(
        home, lambda backend: backend.register_flow(flow_document("typed", parameters=parameters), project_name="demo")
    )
    for words, said in (
        (("WRONG=1",), "Error: the flow has no parameter 'WRONG'; it has: n, text\n"),
        (("n=one",), "Error: parameter 'n': \"one\" is not an integer\n"),
    ):
        given = [word for param in words for word in ("-p", param)]
        many = ("--every", "1d", "--from", "2026-01-01", "--to", "2026-01-03")
        assert invoke("create", "typed", *given, *many, code=1).stderr == said
    assert invoke("runs", "--all", "--json").stdout == ""
    (made,) = documents(invoke("create", "typed", "-p", "n=1", "-p", "text=5", "--json"))
    invoke("set-parameter", made["id"], "text", "6")
    assert "is not an integer" in invoke("set-parameter", made["id"], "n", "six", code=1).stderr

    async def recorded_parameters(backend: Backend) -> Any:
        return (await backend.get_flow_run_info(made["id"])).parameters

    assert on_database(home, recorded_parameters) == {"n": 1, "text": "6"}


def test_a_question_that_nobody_can_answer_changes_nothing(home: Path) -> None:
    run = recorded(home, Success("done"), flow=Success("done"))
    for given, code in ((None, 1), ("n\n", 1), ("y\n", 0)):
        before = [line["id"] for line in documents(invoke("runs", "--json"))]
        assert before == [run.id]
        printed = invoke("delete", "--flow", "etl", given=given, code=code).stderr
        assert ("--yes asks no question" in printed) == (code == 1)
    assert invoke("runs", "--json").stdout == ""


def test_ctrl_c_while_the_file_is_imported_is_one_line(home: Path) -> None:
    (home / "slow.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = start("run", "slow.py", cwd=home)
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output.splitlines() == ["flowloop: interrupted"]


@pytest.mark.parametrize(
    ("words", "signals", "said"),
    [
        (("run",), 1, "its last states are not recorded, and a worker can go on with it"),
        (("worker",), 2, "what it ran is free for other workers when its leases have run out"),
    ],
    ids=["run", "worker"],
)
def test_sigterm_is_honoured_while_the_server_is_away(
    home: Path, words: tuple[str, ...], signals: int, said: str
) -> None:
    (home / "slow.py").write_text(
        "import asyncio\nfrom flowloop.engine import Flow, task\n"
        "@task\nasync def sleeps():\n    print('asleep', flush=True)\n    await asyncio.sleep(600)\n"
        "with Flow('sleeper') as flow:\n    sleeps()\n"
    )
    with start("server", "--db", "sqlite:///served.db", "--port", "0", cwd=home) as server:
        assert server.stdout is not None
        url = next(line.split()[2] for line in server.stdout if line.startswith("flowloop serves "))
        process = start(*words, "slow.py", "--backend", url, cwd=home, extra={"FLOWLOOP_CANCEL_GRACE": "0.5"})
        assert process.stdout is not None
        if words == ("worker",):
            assert "works on sleeper" in process.stdout.readline()
            invoke("create", "sleeper", "--backend", url)
        while "asleep" not in (line := process.stdout.readline()):
            assert line, "it has ended"
        server.kill()
        server.communicate(timeout=60)
    for _ in range(signals):
        process.terminate()
        if signals > 1:  # each is heard by itself once the first one has been told of
            while "asked to stop" not in process.stdout.readline():
                pass
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert f"flowloop: stopped after 1 s: {said}" in output


# -- one run of a worker -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "code", "said"),
    [
        ("def broken(:", 1, "SyntaxError"),
        ("raise OSError('no model')", 1, "no model"),
        ("from flowloop.engine import Flow\nflow = Flow('other')", LEFT, None),
    ],
)
def test_a_run_whose_file_changed_fails_with_the_reason_or_is_left(
    home: Path, file: str, code: int, said: str | None
) -> None:
    run = recorded(home)
    (home / "flows.py").write_text(file)
    invoke("worker", "--once", "--run", run.id, str(home / "flows.py"), code=code)
    state = on_database(home, lambda backend: backend.get_flow_run_state(run.id))
    if said is None:
        assert not state.is_finished()
        assert "no flow run of other is ready" in invoke("worker", "--once", str(home / "flows.py")).output
    else:
        assert state.is_failed()
        assert said in str(state.message)
