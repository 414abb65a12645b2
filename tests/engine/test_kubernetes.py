"""Task bodies as jobs of Kubernetes, by its real client, against a double of its API."""

import asyncio
import logging
import os
import signal
import sys
import time

import pytest

from flowloop.backends import connect
from flowloop.engine import Flow, FlowRunner, Settings, task
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.errors import ExecutorError, Lost
from flowloop.engine.executors import KubernetesExecutor, Needs, place
from flowloop.engine.executors.jobs import Specification
from flowloop.engine.executors.kubernetes import manifest
from flowloop.engine.results import LocalResult, S3Result
from flowloop.engine.state import Failed, TimedOut

from .kubernetes_api import served

pytest.importorskip("kubernetes_asyncio")
pytestmark = pytest.mark.filterwarnings("default")

PATIENT = {"settings": Settings(cancel_grace=60)}


@pytest.fixture
async def api(tmp_path):
    async with served(tmp_path) as found:
        found.folder = tmp_path
        found.executor = KubernetesExecutor(
            "flows:1", LocalResult(tmp_path / "store"), config_file=str(found.config_file)
        )
        yield found


async def one(api, body, *, needs=None, **options):
    with Flow("one") as flow:
        done = task(body, name="one", needs=needs, **options)()
    state = await FlowRunner(flow, **PATIENT).run(executor=api.executor, return_tasks=[done])
    return state.result[done]


def nothing():
    pass


async def until(holds):
    while not holds():  # noqa: ASYNC110 - it happens in another process
        await asyncio.sleep(0.01)


async def test_a_flow_of_jobs(api, caplog, capsys):
    def double(n):
        print(f"printed {n}")
        logging.getLogger("mine").warning("logged %d", n)
        return 2 * n

    async def fails(numbers):
        raise KeyError(sum(numbers))

    with Flow("jobs") as flow:
        doubled = task(double).map([1, 2])
        failed = task(fails)(doubled)
    state = await FlowRunner(flow).run(executor=api.executor, return_tasks=[doubled, failed])
    assert state.result[doubled].result == [2, 4]
    assert type(state.result[failed].result) is KeyError
    assert state.result[failed].result.args == (6,)
    assert {record.getMessage() for record in caplog.records if record.name == "mine"} == {"logged 1", "logged 2"}
    assert sorted(capsys.readouterr().out.split("\n")) == ["", "printed 1", "printed 2"]
    # nothing is left, of three jobs with names of their own
    assert len({one["metadata"]["name"] for one in api.manifests}) == 3
    await until(lambda: not api.jobs)
    assert not list((api.folder / "store").iterdir())


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_timeout_stops_the_body_with_its_job(api, is_async):
    marks = str(api.folder / "marks")

    def mark():
        with open(marks, "w") as file:
            file.write("stopped")

    def sleeps():
        try:
            time.sleep(600)
        finally:
            mark()

    async def sleeps_on_the_loop():
        try:
            await asyncio.sleep(600)
        finally:
            mark()

    state = await one(api, sleeps_on_the_loop if is_async else sleeps, timeout=1)
    assert type(state) is TimedOut
    assert api.jobs == []
    assert (api.folder / "marks").read_text() == "stopped"


async def test_a_pod_that_is_killed_loses_its_body(api):
    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    state = await one(api, dies)
    assert isinstance(state.result, Lost)
    assert "failed: OOMKilled, exit code 137" in str(state.result)
    assert state.context["lost"] == {"may_have_run": True}


async def test_a_pod_without_flowloop_never_began(api):
    api.executor.template = {
        "spec": {"template": {"spec": {"containers": [{"name": "body", "command": ["python", "-c", "exit(7)"]}]}}}
    }
    state = await one(api, nothing)
    assert "failed: Error, exit code 7" in str(state.result)
    assert state.context["lost"] == {"may_have_run": False}


async def test_what_kubernetes_refuses_is_told(api):
    api.refuses = "exceeded quota: flows"
    state = await one(api, nothing)
    assert type(state) is Failed
    assert "Kubernetes refuses its job: exceeded quota: flows" in str(state.result)


async def test_a_version_that_differs_is_refused(api, monkeypatch):
    from flowloop.engine.executors import jobs

    monkeypatch.setattr(jobs, "versions", lambda: {"python": "3.1", "flowloop": "0"})
    state = await one(api, nothing)
    assert f"its job has python {sys.version_info[0]}" in str(state.result)
    assert "use the same" in str(state.result)


async def test_one_that_never_begins_waits_no_longer_than_its_queue_timeout(api):
    api.runs = False
    state = await one(api, nothing, needs=Needs(queue_timeout=0.1))
    assert type(state) is TimedOut
    await until(lambda: not api.jobs)


async def test_whoever_comes_back_to_the_api_finds_what_has_ended_meanwhile(api):
    gate = api.folder / "gate"

    def waits(path):
        while not os.path.exists(path):
            time.sleep(0.01)
        return "there"

    async with api.executor.open() as opened:
        job = place.Job(id="1", name="waits", body=waits, is_async=False, inputs={"path": str(gate)})
        ticket = await opened.submit(job)
        assert await ticket.began()
        api.cut_off()
        gate.touch()
        assert await ticket.outcome() == place.Done("there")


async def test_whoever_takes_the_flow_run_over_gets_the_job_that_is_there(api):
    gate, marks = api.folder / "gate", api.folder / "gate.marks"

    def waits(path):
        with open(path + ".marks", "a") as file:
            file.write("ran ")
        while not os.path.exists(path):
            time.sleep(0.01)
        return "there"

    with Flow("one") as flow:
        done = task(waits, name="one")(str(gate))
    settings = Settings(home=str(api.folder / "home"))
    async with connect("memory://", settings=settings) as backend:
        context = {"flow_run_id": await create_flow_run(flow, backend, settings=settings)}
        first, second = (CloudFlowRunner(flow, backend=backend, settings=settings) for _ in range(2))
        going = asyncio.create_task(first.run(context=context, executor=api.executor))
        await until(marks.exists)
        first.cancel("handover")
        await going
        assert len(api.jobs) == 1
        gate.touch()
        state = await second.run(context=context, executor=api.executor, return_tasks=[done])
    assert state.result[done].result == "there"
    assert marks.read_text() == "ran "


def test_the_manifest_says_what_a_body_needs():
    executor = KubernetesExecutor(
        "flows:1",
        S3Result("b"),
        template={"spec": {"template": {"spec": {"serviceAccountName": "flows", "containers": [{"name": "proxy"}]}}}},
    )
    needs = Needs(
        cpus=0.5,
        gpus=1,
        memory=2**30,
        resources={"example.com/disk": 2},
        options={"kubernetes": {"spec": {"template": {"spec": {"nodeSelector": {"zone": "a"}}}}}},
    )
    job = place.Job(id="1-1-1", name="one[2]", body=len, is_async=False, needs=needs, grace=2.5)
    made = manifest(executor, Specification("flowloop-1", {"A": "b"}, job))
    pod = made["spec"]["template"]["spec"]
    body, proxy = pod.pop("containers")
    assert proxy == {"name": "proxy"}
    assert pod == {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 3,
        "serviceAccountName": "flows",
        "nodeSelector": {"zone": "a"},
    }
    asked = {"example.com/disk": "2", "nvidia.com/gpu": "1", "memory": str(2**30)}
    assert body["resources"] == {"requests": {**asked, "cpu": "0.5"}, "limits": asked}
    assert body["env"] == [{"name": "A", "value": "b"}]
    assert made["spec"]["backoffLimit"] == 0
    assert made["metadata"]["annotations"] == {"flowloop/task": "one[2]", "flowloop/job": "1-1-1"}


async def test_without_the_client_or_a_cluster_the_error_says_what_to_do(monkeypatch, tmp_path):
    nowhere = KubernetesExecutor("i", S3Result("b"), config_file=str(tmp_path / "none"))
    with pytest.raises(ExecutorError, match="finds no cluster"):
        async with nowhere.open():
            pass
    monkeypatch.setitem(sys.modules, "kubernetes_asyncio.client", None)
    with pytest.raises(ExecutorError, match=r"pip install 'flowloop\[kubernetes\]'"):
        async with nowhere.open():
            pass
