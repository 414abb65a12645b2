"""What every place keeps to, wherever the bodies run."""

import asyncio
import collections
import contextlib
import itertools
import json
import logging
import os
import signal
import sys
import threading
import time

import anyio
import anyio.lowlevel
import anyio.streams.text
import anyio.to_thread
import pytest

from flowloop.engine import Flow, FlowRunner, Settings, context, task, unmapped
from flowloop.engine.errors import ExecutorError, FlowDefinitionError, Lost
from flowloop.engine.executors import (
    DaskExecutor,
    LocalExecutor,
    Needs,
    ProcessExecutor,
    RayExecutor,
    SeveralExecutors,
    SimpleExecutor,
    _job_worker,
    executor_named,
    place,
)
from flowloop.engine.executors._ticket import TaskTicket
from flowloop.engine.executors.jobs import JobService, JobsExecutor, Phase, Seen
from flowloop.engine.results import LocalResult
from flowloop.engine.signals import SKIP
from flowloop.engine.testing import run as run_in_virtual_time

# what Dask does at its own edges is not for these tests to judge
pytestmark = pytest.mark.filterwarnings("default")


class Calls(SimpleExecutor):
    """Calls bodies where it is."""

    async def submit(self, fn, *args, extra_context=None, **kwargs):
        if asyncio.iscoroutinefunction(fn):
            return await fn(*args, **kwargs)
        return await anyio.to_thread.run_sync(lambda: fn(*args, **kwargs))


class Jobs(JobsExecutor):
    """Launches each body as a job of a service that outlives whoever launched it."""

    def __init__(self, folder):
        super().__init__(LocalResult(folder), window=2)
        self.pods = {}

    @contextlib.asynccontextmanager
    async def service(self):
        yield Pods(self.pods)


class Pods(JobService):
    """A service whose jobs are threads; one that was terminated is as good as gone."""

    def __init__(self, pods):
        self._pods = pods

    async def launch(self, wanted):
        if wanted.name not in self._pods:
            self._pods[wanted.name] = Pod(wanted)

    async def watch(self):
        seen = {}
        while True:
            for name, pod in list(self._pods.items()):
                if seen.get(name) != (pod, pod.phase):
                    seen[name] = pod, pod.phase
                    yield Seen(name, pod.phase)
            await asyncio.sleep(0.01)

    async def lines(self, name):
        pod = self._pods[name]
        while pod.phase is Phase.RUNS or pod.written:
            while pod.written:
                yield pod.written.popleft()
            await asyncio.sleep(0.01)

    async def terminate(self, name):
        self._pods[name].phase = Phase.GONE

    async def remove(self, name):
        self._pods.pop(name, None)


class Pod:
    def __init__(self, wanted):
        self.phase = Phase.RUNS
        self.written = collections.deque()
        self._about = json.loads(wanted.environment["FLOWLOOP_JOB"])
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        with contextlib.suppress(OSError):  # the store of one that was terminated is gone
            _job_worker.run(self._about, lambda text: self.written.extend(text.splitlines()))
        if self.phase is Phase.RUNS:
            self.phase = Phase.SUCCEEDED


def dask(**options):
    pytest.importorskip("distributed")
    return DaskExecutor(
        window=2,
        **options,
        cluster_kwargs={
            "n_workers": 1,
            "threads_per_worker": 2,
            "processes": False,
            "dashboard_address": "127.0.0.1:0",
            "worker_dashboard_address": "127.0.0.1:0",
        },
    )


SAID_BY_RAY = {}
"""What Ray puts into the environment when it begins, for processes that join it: after a test that is taken back."""


@pytest.fixture(scope="module")
def ray():
    """A Ray of this process for all tests: it takes long to begin."""
    found = pytest.importorskip("ray")
    found.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100_000_000,
        _node_ip_address="127.0.0.1",
    )
    SAID_BY_RAY.update({name: value for name, value in os.environ.items() if name.startswith("RAY_")})
    yield found
    found.shutdown()


MAKERS = {
    "local": lambda folder: LocalExecutor(threads=2),
    "processes": lambda folder: ProcessExecutor(2),
    "dask": lambda folder: dask(),
    "ray": lambda folder: RayExecutor(window=2),
    "simple": lambda folder: Calls(),
    "jobs": Jobs,
    "several": lambda folder: SeveralExecutors({"": LocalExecutor(threads=2), "other": ProcessExecutor(1)}),
}
WITH_A_WINDOW = ("processes", "dask", "ray", "jobs", "local", "several")
HEARD = ("local", "processes", "dask", "ray", "several", "jobs")
KEEPING = ("dask", "ray")


def kinds(names):
    return [pytest.param(kind, marks=pytest.mark.heavy if kind == "ray" else ()) for kind in names]


def at(names):
    """Try only the places that promise what the test is about."""
    return pytest.mark.parametrize("opened", kinds(names), indirect=True)


@pytest.fixture(params=kinds(MAKERS))
async def opened(request, tmp_path):
    if request.param == "ray":
        request.getfixturevalue("ray")
    executor = MAKERS[request.param](tmp_path / "store")
    async with executor.open() as found:
        found.kind, found.executor = request.param, executor
        yield found


numbers = itertools.count()


def job(body, **kwargs):
    return place.Job(
        id=f"job-{next(numbers)}",
        name=body.__name__,
        body=body,
        is_async=asyncio.iscoroutinefunction(body),
        **{"grace": 2.0, **kwargs},
    )


async def outcome(opened, body, **kwargs):
    return await (await opened.submit(job(body, **kwargs))).outcome()


async def test_what_a_body_returns(opened):
    def sync(a, b):
        return a + b

    async def coroutine(a, b):
        await anyio.lowlevel.checkpoint()
        return a * b

    assert await outcome(opened, sync, inputs={"a": 2, "b": 3}) == place.Done(5)
    assert await outcome(opened, coroutine, inputs={"a": 2, "b": 3}) == place.Done(6)


@pytest.mark.parametrize("error", [KeyError("k"), SKIP("s"), SystemExit(3)], ids=repr)
async def test_what_a_body_raises(opened, error):
    def raises():
        raise error

    found = await outcome(opened, raises)
    assert type(found) is place.Raised
    assert type(found.error) is type(error)
    assert found.error.args == error.args


async def test_an_outcome_can_be_asked_for_again_and_a_stop_after_it_changes_nothing(opened):
    def answers():
        return 1

    ticket = await opened.submit(job(answers))
    await ticket.began()
    assert [await ticket.outcome() for _ in range(2)] == [place.Done(1)] * 2
    assert await ticket.stop("user", 1.0) is place.Fate.ENDED
    assert await ticket.outcome() == place.Done(1)


PATIENCE = 60.0


@pytest.fixture
def gate(tmp_path):
    """A file that bodies wait for, wherever they run; it is there when the test ends."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def waits(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    return 1


async def waits_on_the_loop(path):
    while not await anyio.Path(path).exists():  # noqa: ASYNC110 - the file is on any machine
        await asyncio.sleep(0.01)
    return 1


async def test_whoever_waits_and_is_cancelled_stops_nothing(opened, gate):
    ticket = await opened.submit(job(waits, inputs={"path": str(gate)}))
    with anyio.move_on_after(0.01):
        await ticket.outcome()
    gate.touch()
    assert await ticket.outcome() == place.Done(1)


async def test_an_async_body_is_stopped(opened, gate):
    ticket = await opened.submit(job(waits_on_the_loop, inputs={"path": str(gate)}, grace=PATIENCE))
    await ticket.began()
    assert await ticket.stop("user", PATIENCE) in (place.Fate.ENDED, place.Fate.KILLED)
    found = await ticket.outcome()
    assert isinstance(found, place.Raised)
    assert isinstance(found.error, asyncio.CancelledError)


STOPPED = {"processes": "KILLED", "dask": "ENDED", "ray": "ENDED", "jobs": "KILLED"}
"""What becomes of a sync body that is told to stop; elsewhere it goes on, or nobody knows."""


def grace_of(opened):
    return PATIENCE if opened.kind in STOPPED else 0.05


async def test_a_sync_body_is_stopped_or_said_to_go_on(opened, gate):
    ticket = await opened.submit(job(waits, inputs={"path": str(gate)}, grace=grace_of(opened)))
    await ticket.began()
    fate = await ticket.stop("user", grace_of(opened))
    expected = {**STOPPED, "local": "GOES_ON", "several": "GOES_ON"}
    assert fate.name == expected.get(opened.kind, "UNKNOWN")


def hears_of_nothing(path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(os.path.join(os.path.dirname(path), "here"), "w"):
        pass
    waits(path)


def tidies_up(path):
    folder = os.path.dirname(path)
    try:
        with open(os.path.join(folder, "here"), "w"):
            pass
        waits(path)
    finally:
        while not os.path.exists(os.path.join(folder, "tidy")):
            time.sleep(0.01)
        with open(os.path.join(folder, "tidied"), "w"):
            pass


async def here(gate):
    """Wait until a body says that it is there."""
    while not await anyio.Path(gate.parent / "here").exists():  # noqa: ASYNC110 - the body makes it
        await asyncio.sleep(0.01)


class SlowPods(Pods):
    """A service that takes its time to launch a job."""

    def __init__(self):
        super().__init__({})
        self.asked, self.may_go_on = anyio.Event(), anyio.Event()

    async def launch(self, wanted):
        self.asked.set()
        await self.may_go_on.wait()
        await super().launch(wanted)


async def test_a_job_that_is_stopped_while_it_is_launched_is_ended_for_certain(tmp_path, gate):
    slow = SlowPods()
    executor = Jobs(tmp_path / "store")
    executor.service = lambda: contextlib.nullcontext(slow)
    async with executor.open() as opened:
        ticket = await opened.submit(job(waits, inputs={"path": str(gate)}, grace=PATIENCE))
        await slow.asked.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(ticket.stop, "user", PATIENCE)
            await anyio.wait_all_tasks_blocked()
            slow.may_go_on.set()
        assert [pod.phase for pod in slow._pods.values()] == [Phase.GONE]


@at(["dask"])
async def test_a_body_that_does_not_hear_of_its_stop_is_killed_after_the_grace(opened, gate):
    ticket = await opened.submit(job(hears_of_nothing, inputs={"path": str(gate)}, grace=0.5))
    await here(gate)
    assert await ticket.stop("user", PATIENCE) is place.Fate.KILLED


@at(["dask"])
async def test_a_body_that_is_stopped_before_it_was_heard_to_begin_tidies_up_all_the_same(opened, gate, monkeypatch):
    from flowloop.engine.executors import _dask_worker

    is_told = threading.Event()
    begins = _dask_worker._Body.begins
    monkeypatch.setattr(_dask_worker._Body, "begins", lambda body: is_told.wait(PATIENCE) and begins(body))
    ticket = await opened.submit(job(tidies_up, inputs={"path": str(gate)}, grace=PATIENCE))
    await here(gate)
    async with anyio.create_task_group() as group:
        group.start_soon(ticket.stop, "user", PATIENCE)
        while not any(body.was_stopped for body in _dask_worker._running.values()):  # noqa: ASYNC110 - in a thread
            await asyncio.sleep(0.01)
        (gate.parent / "tidy").touch()
        is_told.set()
    assert isinstance(await ticket.outcome(), place.Raised)
    assert (gate.parent / "tidied").exists()


@at(["dask"])
async def test_its_processes_are_kept_for_the_next_bodies_and_end_with_their_worker(opened):
    first, second = [(await outcome(opened, os.getpid)).value for _ in range(2)]
    assert first == second != os.getpid()
    await opened._client.cluster.close()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


@at(["dask"])
async def test_a_body_that_was_stopped_tidies_up_undisturbed(opened, gate):
    ticket = await opened.submit(job(tidies_up, inputs={"path": str(gate)}, grace=PATIENCE))
    await here(gate)
    async with anyio.create_task_group() as group:
        group.start_soon(ticket.stop, "user", PATIENCE)
        await asyncio.sleep(0.3)  # it is told meanwhile
        (gate.parent / "tidy").touch()
    assert isinstance(await ticket.outcome(), place.Raised)
    assert (gate.parent / "tidied").exists()


@pytest.mark.parametrize("body", [waits, waits_on_the_loop])
async def test_a_timeout_says_what_became_of_the_body(opened, gate, body):
    found = await outcome(opened, body, inputs={"path": str(gate)}, timeout=0.1, grace=grace_of(opened))
    assert isinstance(found, place.TimedOut)
    assert found.fate is not place.Fate.NEVER_BEGAN
    assert ("killed" in found.detail) == (found.fate is place.Fate.KILLED)


@at(WITH_A_WINDOW)
async def test_a_full_place_lets_jobs_wait(opened, gate):
    full = [await opened.submit(job(waits, inputs={"path": str(gate)})) for _ in range(2)]
    for ticket in full:
        await ticket.began()
    began = anyio.Event()

    async def one():
        ticket = await opened.submit(job(waits, inputs={"path": str(gate)}))
        await ticket.began()
        began.set()
        full.append(ticket)

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        assert not began.is_set()
        gate.touch()
    assert [await ticket.outcome() for ticket in full] == [place.Done(1)] * 3


@pytest.mark.parametrize(("began_at", "is_late"), [(None, False), (50, False), (10, True)])
def test_a_timeout_counts_from_the_beginning(began_at, is_late):
    async def sees_to_it():
        async def work(ticket):
            if began_at is not None:
                await asyncio.sleep(began_at)
                ticket.has_begun()
            await asyncio.sleep(100 - (began_at or 0))
            return place.Done(1)

        return await TaskTicket(job(waits, timeout=60.0), work).outcome()

    found = run_in_virtual_time(sees_to_it())
    assert (type(found) is place.TimedOut) == is_late


@at(HEARD)
async def test_what_a_body_logs_and_prints_is_heard(opened, caplog, capsys):
    def says():
        logging.getLogger("mine").warning("logged")
        print("printed")

    with caplog.at_level(logging.INFO):
        assert await outcome(opened, says) == place.Done(None)
    assert [record.getMessage() for record in caplog.records if record.name == "mine"] == ["logged"]
    assert "printed\n" in capsys.readouterr().out


@at(KEEPING)
async def test_a_large_result_stays_and_is_taken_from_there(opened, tmp_path):
    assert opened.keeps_values

    def makes():
        return [bytes([n]) * 100_000 for n in range(3)]

    def first(chunk):
        return chunk[0], len(chunk)

    def both(chunks):
        return [chunk and chunk[0] for chunk in chunks]

    def text():
        return "x" * 100_000

    made = (await outcome(opened, makes, keep=True)).value
    assert isinstance(made, place.Remote)
    parts = await opened.split(made)
    assert len(parts) == 3
    assert await outcome(opened, first, inputs={"chunk": parts[1]}) == place.Done((1, 100_000))
    assert await outcome(opened, both, inputs={"chunks": [parts[2], None, parts[0]]}) == place.Done([2, None, 0])
    assert await opened.fetch(parts[1]) == bytes([1]) * 100_000
    with pytest.raises(TypeError, match="a text is one value"):
        await opened.split((await outcome(opened, text, keep=True)).value)
    # with a store it is written where it was made
    store = LocalResult(tmp_path / "results", location="{name}")
    stored = (await outcome(opened, makes, keep=True, store=store.at("made"))).value
    assert isinstance(stored, place.Stored)
    assert isinstance(stored.value, place.Remote)
    assert (await LocalResult(tmp_path / "results").read(stored.result.location)).value == makes()


async def test_nothing_is_wrong_with_any_of_them(opened):
    assert await opened.check() == []


async def test_a_value_that_can_be_read_once_comes_as_a_list(opened):
    def generates():
        yield from range(3)

    assert await outcome(opened, generates, is_read=True) == place.Done([0, 1, 2])


@pytest.mark.parametrize("kind", ["jobs", pytest.param("ray", marks=pytest.mark.heavy)])
async def test_a_job_that_goes_on_is_found_by_whoever_submits_it_next(request, tmp_path, gate, kind):
    if kind == "ray":
        request.getfixturevalue("ray")
    marks = tmp_path / "marks"

    def marked(marks, path):
        with open(marks, "a") as file:
            file.write("ran ")
        return waits(path)

    made = job(marked, inputs={"marks": str(marks), "path": str(gate)})
    executor = MAKERS[kind](tmp_path / "store")
    async with executor.open() as first:
        ticket = await first.submit(made)
        assert await ticket.began()
        assert await ticket.stop("handover", PATIENCE) is place.Fate.GOES_ON
    gate.touch()
    async with executor.open() as second:
        assert second.reattaches
        assert await (await second.submit(made)).outcome() == place.Done(1)
    assert marks.read_text() == "ran "
    assert not getattr(executor, "pods", None)


async def test_one_that_begins_a_second_time_is_lost(tmp_path):
    def body():
        return 1

    made = job(body)
    executor = Jobs(tmp_path / "store")
    async with executor.open() as opened:
        assert await (await opened.submit(made)).outcome() == place.Done(1)
        executor.pods.clear()  # the service has forgotten it
        for path in (tmp_path / "store").glob("*/answer"):
            path.unlink()
        found = await (await opened.submit(made)).outcome()
    assert isinstance(found, place.Lost)
    assert found.may_have_run


@pytest.mark.parametrize("kind", ["processes", pytest.param("ray", marks=pytest.mark.heavy)])
async def test_a_body_whose_process_is_killed_is_lost_and_the_place_goes_on(request, kind):
    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    def answers():
        return 1

    if kind == "ray":
        request.getfixturevalue("ray")
    async with MAKERS[kind](None).open() as opened:
        found = await outcome(opened, dies)
        assert isinstance(found, place.Lost)
        assert found.may_have_run
        assert await outcome(opened, answers) == place.Done(1)


# -- Ray, which has no file of tests of its own --------------------------------------------------------


@pytest.mark.heavy
async def test_a_flow_on_ray(ray, tmp_path):
    """Large inputs and results stay in its store, a killed worker loses its body, needs are options."""
    pickles = []

    class Large:
        nbytes = 1_000_000

        def __reduce__(self):
            pickles.append(1)
            return list, ([7],)

    def takes(n, large):
        return bytes([n + large[0]]) * 100_000

    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    with Flow("ray") as flow:
        made = task(takes).map([1, 2, 3], unmapped(Large()))
        sizes = task(lambda chunk: (len(chunk), chunk[0]), name="sizes").map(made)
        lost = task(dies, needs=Needs(cpus=0.5))()
    runner = FlowRunner(flow)
    state = await runner.run(executor=RayExecutor(), return_tasks=[sizes, lost])
    assert state.result[sizes].result == [(100_000, 7 + n) for n in (1, 2, 3)]
    assert len(pickles) == 1
    assert isinstance(state.result[lost].result, Lost)
    assert state.result[lost].context["lost"] == {"may_have_run": True}


DRIVER = """
import asyncio, os, sys, time
from flowloop.engine.executors import RayExecutor, place

def marked(marks, path):
    with open(marks, "a") as file:
        file.write("ran ")
    while not os.path.exists(path):
        time.sleep(0.01)
    return b"x" * 100_000

async def main(address, marks, path):
    async with RayExecutor(address).open() as opened:
        inputs = {"marks": marks, "path": path}
        ticket = await opened.submit(place.Job(id="left", name="marked", body=marked, is_async=False, inputs=inputs))
        await ticket.began()
        print("began", flush=True)
        await ticket.outcome()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.heavy
async def test_what_a_killed_process_left_on_ray_is_found_by_its_successor(ray, tmp_path, gate):
    """The process that is killed is the one whose owner of bodies it is."""
    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor("flowloop", namespace="flowloop"))
    marks = tmp_path / "marks"
    command = [sys.executable, "-c", DRIVER, ray.get_runtime_context().gcs_address, str(marks), str(gate)]
    async with await anyio.open_process(command, stderr=None, env={**os.environ, **SAID_BY_RAY}) as driver:
        stdout, said = anyio.streams.text.TextReceiveStream(driver.stdout), ""
        while "began\n" not in said:  # Ray says something there now and then, too
            said += await stdout.receive()
        driver.kill()
    gate.touch()
    again = place.Job(id="left", name="marked", body=waits, is_async=False, is_taken_over=True)
    async with RayExecutor().open() as opened:
        ticket = await opened.submit(again)
        assert await ticket.began()
        assert await ticket.outcome() == place.Done(b"x" * 100_000)
    assert marks.read_text() == "ran "


async def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExecutorError, match=r"pip install 'flowloop\[ray\]'"):
        async with RayExecutor().start():
            pass


# -- outcomes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "kind", "said"),
    [
        (place.TimedOut(place.Fate.KILLED, "Killed."), ExecutorError, "'x' took longer than its timeout. Killed."),
        (place.Lost("gone", may_have_run=False), Lost, "'x': gone"),
        (place.Refused("no room"), ExecutorError, "'x': no room"),
        (place.Raised(KeyError(1)), KeyError, "1"),
    ],
)
def test_an_outcome_that_is_no_value_is_an_error(found, kind, said):
    with pytest.raises(kind, match=said) as raised:
        place.settled(found, "x")
    assert getattr(raised.value, "may_have_run", False) is False


# -- several places in one flow ------------------------------------------------------------------------


async def test_each_task_runs_at_the_place_that_it_names():
    def where():
        return threading.current_thread().name, context.get("task_name")

    async def here():
        return threading.current_thread() is threading.main_thread()

    with Flow("several", executor={"other": ProcessExecutor(1)}) as flow:
        first = task(where, name="first")()
        second = task(where, name="second", needs=Needs(place="other"))()
        third = task(here, name="third")()
        fourth = task(here, name="fourth", needs=Needs(place="other"))()
        fifth = task(where, name="fifth", needs=Needs(place="nowhere"))()
    state = await FlowRunner(flow).run()
    assert state.result[first].result == ("flowloop body", "first")
    assert state.result[second].result == ("MainThread", "second")
    assert (state.result[third].result, state.result[fourth].result) == (True, True)
    error = state.result[fifth].result
    assert isinstance(error, FlowDefinitionError)
    assert "needs the place 'nowhere'; the executors here are '', 'other'" in str(error)


def test_what_a_task_needs_is_checked():
    with pytest.raises(FlowDefinitionError, match=r"task 'one': needs is a Needs\(...\), not 1"):
        task(lambda: 1, name="one", needs=1)
    with pytest.raises(FlowDefinitionError, match="executor is an executor, or a dict of executors by name, not 1"):
        Flow("x", executor={"": 1})


@pytest.mark.parametrize(
    ("text", "kind", "holds"),
    [
        ("local", LocalExecutor, {"threads": 64}),
        ("local:8", LocalExecutor, {"threads": 8}),
        ("processes:3", ProcessExecutor, {"processes": 3}),
        ("dask", DaskExecutor, {"address": None}),
        ("dask://there:8786", DaskExecutor, {"address": "tcp://there:8786"}),
        ("dask+tls://there:8786/", DaskExecutor, {"address": "tls://there:8786"}),
        ("ray", RayExecutor, {"address": None}),
        ("ray://there:10001", RayExecutor, {"address": "ray://there:10001"}),
    ],
)
def test_an_executor_as_text(text, kind, holds):
    found = executor_named(text)
    assert type(found) is kind
    assert {name: getattr(found, name) for name in holds} == holds


@pytest.mark.parametrize("text", ["", "thread", "local:x", "processes:0", "http://there"])
def test_a_text_that_names_no_executor_says_what_does(text):
    with pytest.raises(FlowDefinitionError, match="there is no executor"):
        executor_named(text)


async def test_the_settings_name_the_executor_of_flows_without_one():
    def where():
        return threading.current_thread() is threading.main_thread()

    with Flow("settings") as flow:
        done = task(where)()
    for settings, expected in ((Settings(), False), (Settings(executor="processes:1"), True)):
        assert (await FlowRunner(flow, settings=settings).run()).result[done].result is expected
