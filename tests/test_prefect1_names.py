"""Files that were written for Prefect 1, with the names of Prefect resolved to flowloop; and the report about them."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowloop.compat import prefect1
from flowloop.compat.prefect1 import configuration
from flowloop.compat.prefect1.names import MODULES, WAYS_OUT
from flowloop.compat.prefect1.report import report
from flowloop.engine.errors import FlowDefinitionError, FlowloopError

from .commands import ROOT, environment, flowloop, serving

FILES = ROOT / "tests" / "prefect1"
FILE = FILES / "everything.py"


@pytest.fixture
def installed() -> Iterator[None]:
    prefect1.install()
    yield
    prefect1.uninstall()


@pytest.mark.parametrize("name", ["everything", "interface"])
def test_a_whole_file_gives_the_values_that_prefect_gives(tmp_path: Path, name: str) -> None:
    """Those of the real Prefect 1.4.1 are beside the file, and checked against it where it is installed."""
    file = FILES / f"{name}.py"
    extra = {"HERE": str(tmp_path), "WHO": "world", "PREFECT__FLOWS__CHECKPOINTING": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "flowloop.compat.prefect1", str(file)],
        cwd=tmp_path,
        env=environment(tmp_path, extra),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (" INFO - flowloop.run | greeting " in done.stderr) == (name == "everything"), done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(file.with_suffix(".json").read_text())


def test_it_is_off_until_it_is_switched_on(installed: None) -> None:
    from prefect import Flow  # type: ignore[import-not-found]

    prefect1.uninstall()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("prefect.core")
    assert Flow.__module__.startswith("flowloop.")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_name_of_the_table_resolves(module: str, installed: None) -> None:
    found = importlib.import_module(module)
    for name in MODULES[module]:
        assert getattr(found, name) is not None
    assert set(dir(found)) == MODULES[module].keys()


@pytest.mark.parametrize(
    ("statement", "instead"),
    [
        ("from prefect.tasks.snowflake import SnowflakeQuery", "sql_query"),
        ("import prefect.agent.local", "flowloop worker"),
        ("from prefect.tasks.prefect import StartFlowRun", "create_flow_run and wait_for_flow_run"),
        ("from prefect.tasks.prefect.flow_run import StartFlowRun", "create_flow_run and wait_for_flow_run"),
        ("from prefect.utilities.notifications import gmail_notifier", "state handler"),
        ("from prefect.backend import FlowRunView", "get_flow_run_history"),
        ("import prefect; prefect.plugins", "import what you need"),
        ("import prefect; prefect.Client(api_server='memory://').get_agent_config('1')", "Client.get_agent_config"),
    ],
)
def test_what_is_not_there_says_what_to_use(statement: str, instead: str, installed: None) -> None:
    with pytest.raises(FlowloopError, match="is not in flowloop") as raised:
        exec(statement, {})
    assert instead in str(raised.value)


def test_a_name_that_prefect_has_not_is_an_ordinary_error(installed: None) -> None:
    with pytest.raises(ImportError, match="Taks"):
        exec("from prefect import Taks", {})


def test_every_way_out_is_a_sentence() -> None:
    assert all(text and not text.endswith(".") for text in WAYS_OUT.values())


async def test_a_flow_is_not_run_in_secret_on_a_running_loop(installed: None) -> None:
    from prefect import Flow, task

    with Flow("here") as flow:
        one = task(lambda: 1, name="one")()
    with pytest.raises(FlowloopError, match=r"await flow.run_async"):
        flow.run()
    assert (await flow.run_async()).result[one].result == 1


def test_plain_steps_are_awaited_and_those_that_call_super_are_refused(installed: None) -> None:
    from prefect import Flow, task
    from prefect.engine import FlowRunner, TaskRunner

    asked = []

    class Curious(TaskRunner):  # type: ignore[misc]
        def check_task_trigger(self, state: Any, upstream_states: Any) -> Any:
            asked.append(self.task.name)
            return state

    with Flow("asked") as flow:
        task(lambda: 1, name="one")()
    assert FlowRunner(flow, task_runner_cls=Curious).run().is_successful()
    assert asked == ["one"]
    with pytest.raises(FlowDefinitionError, match=r"check_task_trigger.*await super\(\)"):

        class Polite(TaskRunner):  # type: ignore[misc]
            def check_task_trigger(self, state: Any, upstream_states: Any) -> Any:
                return super().check_task_trigger(state, upstream_states)


def test_a_plain_result_class_is_read_and_written(installed: None, tmp_path: Path) -> None:
    from prefect import Flow, context, task
    from prefect.engine.result import Result

    class Shelf(Result):  # type: ignore[misc]
        kept: dict[str, Any] = {}

        def read(self, location: str) -> Any:
            new = self.copy()
            new.location, new.value = location, self.kept[location]
            return new

        def write(self, value: Any, **kwargs: Any) -> Any:
            new = self.format(**kwargs)
            self.kept[new.location] = new.value = value
            return new

        def exists(self, location: str, **kwargs: Any) -> bool:
            return location in self.kept

    with Flow("kept") as flow:
        task(lambda: 5, name="five", target="five", result=Shelf())()
    assert flow.run().is_successful()
    assert Shelf.kept == {}
    with context(checkpointing=True):
        assert flow.run().is_successful()
    assert Shelf.kept == {"five": 5}
    assert flow.run(context={"checkpointing": True}).is_successful()


def test_the_configuration_is_that_of_the_environment(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import prefect

    monkeypatch.setenv("PREFECT__FLOWS__CHECKPOINTING", "true")
    monkeypatch.setenv("PREFECT__MY__OWN__VALUE", "5")
    monkeypatch.setenv("PREFECT__CONTEXT__SECRETS__TOKEN", "abc")
    assert prefect.config.flows.checkpointing is True
    assert prefect.config.my.own.value == 5
    assert prefect.client.Secret("TOKEN").get() == "abc"
    with pytest.raises(AttributeError, match="PREFECT__CLOUD__NONE"):
        _ = prefect.config.cloud.none
    monkeypatch.setattr(configuration, "_changes", {})
    prefect.config.flows.checkpointing = False
    assert prefect.config.flows.checkpointing is False
    with pytest.raises(AttributeError, match="PREFECT__CLOUD__NONE"):
        _ = prefect.config.cloud.none


def test_a_flow_is_hashed_and_kept_in_a_file(installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect import Flow, Parameter

    monkeypatch.setenv("FLOWLOOP_HOME", str(tmp_path))
    with Flow("My flow!") as flow:
        doubled = Parameter("n", default=2) * 2
    assert flow.serialized_hash() == flow.copy().serialized_hash(build=False)
    path = flow.save()
    assert path == str(tmp_path / "flows" / "my-flow.prefect")
    assert flow.save(str(tmp_path / "other")) == str(tmp_path / "other")
    for place in (path, "My flow!", str(tmp_path / "other")):
        again = Flow.load(place)
        assert again.serialized_hash() == flow.serialized_hash()
        assert [state.result for state in again.run(n=3).result.values()].count(6) == 1
    flow.replace(doubled, 5)
    assert flow.serialized_hash() != again.serialized_hash()


def test_flows_are_registered_and_run_through_the_client(installed: None, tmp_path: Path) -> None:
    from prefect import Client, Flow, task
    from prefect.run_configs import LocalRun

    with Flow("registered", run_config=LocalRun(env={"A": "b"}, labels=["here"])) as flow:
        task(lambda: 1, name="one")()
    client = Client(api_server=f"sqlite:///{tmp_path / 'runs.db'}")
    flow_id = client.register(flow, "default")
    run_id = client.create_flow_run(flow_id=flow_id, run_name="first")
    assert client.get_flow_run_state(run_id).is_scheduled()
    assert client.cancel_flow_run(run_id)
    assert flow.serialize()["run_config"]["labels"] == ["here"]


def test_a_server_keeps_key_values(installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect import Client
    from prefect.backend import delete_key, get_key_value, list_keys, set_key_value

    with serving(f"sqlite:///{tmp_path / 'server.db'}", cwd=tmp_path) as url:
        monkeypatch.setenv("FLOWLOOP_BACKEND_URL", url)
        Client().graphql('mutation { create_tenant(input: {name: "default", slug: "default"}) { id } }')
        set_key_value("cursor", {"page": 3})
        set_key_value("cursor", {"page": 4})
        assert get_key_value("cursor") == {"page": 4}
        assert list_keys() == ["cursor"]
        assert delete_key("cursor")
        with pytest.raises(ValueError, match="no value for the key 'cursor'"):
            get_key_value("cursor")


def test_the_report_names_each_line(tmp_path: Path) -> None:
    path = tmp_path / "old.py"
    path.write_text(
        "import prefect\n"
        "from prefect import Flow, task\n"
        "from prefect.tasks.snowflake import SnowflakeQuery\n"
        "from prefect.engine import TaskRunner\n"
        "from prefect.engine.result import Result\n"
        "class Own(TaskRunner):\n"
        "    def check_task_trigger(self, state, upstream_states):\n"
        "        return state\n"
        "class Shelf(Result):\n"
        "    def read(self, location):\n"
        "        return self\n"
        "@task\n"
        "def one():\n"
        "    prefect.context.get('logger').info('one')\n"
        "with Flow('old') as flow:\n"
        "    one()\n"
        "flow.register('project')\n"
        "state = flow.run()\n"
    )
    found = {(finding.line, finding.found): finding for finding in report(path)}
    assert found[2, "from prefect import task"].instead == "from flowloop import task"
    assert not found[3, "from prefect.tasks.snowflake import SnowflakeQuery"].exists
    assert "async def" in found[7, "def check_task_trigger of Own"].instead
    assert "async def" in found[10, "def read of Shelf"].instead
    assert found[14, "prefect.context"].instead == "from flowloop import context"
    assert "register_flow" in found[17, "flow.register(…)"].instead
    assert "run_sync" in found[18, "flow.run(…)"].instead
    told = flowloop("migrate", str(path), cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[-1].endswith("11 to change, 1 of them not in flowloop")


def test_the_report_of_the_whole_file_finds_everything_in_flowloop() -> None:
    assert [finding for finding in report(FILE) if not finding.exists] == []
