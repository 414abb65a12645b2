"""Task bodies on a Dask cluster."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import anyio.lowlevel
import anyio.to_thread
import pytest

from flowloop.backends import connect
from flowloop.engine import Flow, FlowRunner, Settings, context, task, unmapped
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.errors import ExecutorError, Lost
from flowloop.engine.executors import DaskExecutor, Needs, place
from flowloop.engine.results import LocalResult
from flowloop.engine.signals import SKIP
from flowloop.engine.state import Cancelled, Skipped, TimedOut

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

# what Dask does at its own edges is not for these tests to judge; that it works with each Python is for test_places.py
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.heavy]


def executor(**kwargs):
    return DaskExecutor(
        cluster_kwargs={
            "n_workers": 1,
            "threads_per_worker": 2,
            "dashboard_address": "127.0.0.1:0",
            "worker_dashboard_address": "127.0.0.1:0",
            "processes": False,
            **kwargs,
        }
    )


def started(*arguments):
    command = [sys.executable, str(Path(__file__).with_name("dask_cluster.py")), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
    return process, process.stdout.readline().strip()


def ended(process):
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


@pytest.fixture(autouse=True)
def time_to_come_back():
    """A worker that was killed is begun again; a cluster of this process gives it up where that takes long."""
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}):
        yield


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of two worker processes, each with two threads."""
    process, address = started("2", "2")
    yield address
    ended(process)


@pytest.fixture(scope="module")
def bare_cluster():
    """The address of a cluster that has no flowloop."""
    process, address = started("1", "1", "without-flowloop")
    yield address
    ended(process)


PATIENT = {"settings": Settings(cancel_grace=60)}


async def one(body, address, *, runner_options=None, **inputs):
    """Run one task, and return its state."""
    made = body if hasattr(body, "copy") else task(body)
    with Flow("one") as flow:
        done = made(**inputs)
    state = await FlowRunner(flow, **(runner_options or {})).run(executor=DaskExecutor(address))
    return state.result[done]


# -- bodies --------------------------------------------------------------------------------------------


async def test_bodies_run_on_a_worker_and_see_the_run_context():
    def sync(n):
        return n + 1, os.getppid(), context.task_full_name

    async def coroutine(n):
        await anyio.lowlevel.checkpoint()
        return n + 2, distributed.get_worker().name

    def skips():
        raise SKIP("not today")

    def fails():
        raise KeyError("k")

    with Flow("dask") as flow:
        first = task(sync).map([1, 2])
        second, third, fourth = task(coroutine)(1), task(skips)(), task(fails)()
    state = await FlowRunner(flow).run(executor=executor())
    own = os.getpid()  # where the worker is, too
    assert state.result[first].result == [(2, own, "sync[0]"), (3, own, "sync[1]")]
    assert state.result[second].result == (3, 0)
    assert isinstance(state.result[third], Skipped)
    assert isinstance(state.result[fourth].result, KeyError)
    assert "fails" in "".join(state.result[fourth].result.__notes__)


async def test_an_async_body_runs_in_its_worker_and_a_sync_one_beside_it(cluster):
    async def inside():
        return distributed.get_worker().address

    def beside():
        return distributed.get_worker().address

    with Flow("where") as flow:
        first, second = task(inside)(), task(beside)()
    state = await FlowRunner(flow).run(executor=DaskExecutor(cluster))
    assert state.result[first].result.startswith("tcp://")
    assert "No worker found" in str(state.result[second].result)


async def test_bodies_run_in_other_processes(cluster):
    assert (await one(os.getpid, cluster)).result not in (None, os.getpid())


async def test_a_cluster_that_is_there_is_used_and_left(cluster):
    made = DaskExecutor(cluster)
    for _ in range(2):
        async with made.start(), made.start():
            assert await made.submit(divmod, 7, 2) == (3, 1)
        async with made.start():
            assert await made.submit(len, "abc") == 3


async def test_what_cannot_travel_is_named(cluster):
    def uses(lock):
        pass

    state = await one(uses, cluster, lock=threading.Lock())
    assert "its argument 'lock' (a _thread.lock) cannot be pickled" in str(state.result)


async def test_the_file_of_a_flow_travels_with_its_helpers(cluster, tmp_path, monkeypatch):
    (tmp_path / "helpers_beside.py").write_text("def double(n):\n    return 2 * n\n")
    (tmp_path / "flow_of_a_file.py").write_text(
        textwrap.dedent("""
            from flowloop.engine import Flow, task
            from helpers_beside import double

            def add_one(n):
                return double(n) + 1

            @task
            def compute(n):
                return add_one(n)

            with Flow("file") as flow:
                done = compute(3)
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import flow_of_a_file

    state = await FlowRunner(flow_of_a_file.flow).run(executor=DaskExecutor(cluster))
    assert state.result[flow_of_a_file.done].result == 7


async def test_a_large_unmapped_input_is_put_there_once(cluster):
    pickles = []

    class Large:
        def __sizeof__(self):
            return 1_000_000

        def __reduce__(self):
            pickles.append(1)
            return list, ([7],)

    def takes(n, large):
        return n + large[0]

    with Flow("large") as flow:
        done = task(takes).map(list(range(20)), unmapped(Large()))
    state = await FlowRunner(flow).run(executor=DaskExecutor(cluster))
    assert state.result[done].result == [n + 7 for n in range(20)]
    assert len(pickles) == 1


class Chunks:
    """A flow of three stages whose results are two megabytes each, and a last one that is small."""

    def __init__(self, **options):
        with Flow("chunks", **options) as self.flow:
            self.made = task(lambda n: bytes([n]) * 2_000_000, name="make").map([1, 2, 3, 4])
            self.turned = task(lambda chunk: chunk[::-1], name="turn").map(self.made)
            self.cut = task(lambda chunk: chunk[: len(chunk) // 2], name="cut").map(self.turned)
            sizes = task(lambda chunk: (len(chunk), chunk[0]), name="size").map(self.cut)
            self.all = task(lambda sizes: sizes, name="all")(sizes)


@pytest.fixture
def through_here(monkeypatch):
    """The sizes of the answers that come here."""
    from flowloop.engine.executors import dask as module

    sizes = []

    def counted(frame):
        sizes.append(len(frame))
        return unpickled(frame)

    unpickled = module.unpickled
    monkeypatch.setattr(module, "unpickled", counted)
    return sizes


async def test_results_that_only_bodies_take_stay_on_the_cluster(cluster, through_here):
    chunks = Chunks()
    state = await FlowRunner(chunks.flow).run(executor=DaskExecutor(cluster), return_tasks=[chunks.all])
    assert state.result[chunks.all].result == [(1_000_000, n) for n in (1, 2, 3, 4)]
    assert sum(through_here) < 10_000


async def test_in_a_recorded_run_those_stay_that_are_never_stored(cluster, through_here, tmp_path):
    with Flow("recorded") as flow:
        made = task(lambda n: bytes([n]) * 2_000_000, name="make", checkpoint=False).map([1, 2])
        stored = task(lambda chunk: chunk[:1_000_000], name="stored").map(made)
        sizes = task(lambda chunk: len(chunk), name="size").map(stored)
    settings = Settings(home=str(tmp_path))
    async with connect("memory://", settings=settings) as backend:
        runner = CloudFlowRunner(flow, backend=backend, settings=settings)
        state = await runner.run(executor=DaskExecutor(cluster), return_tasks=[sizes])
    assert state.result[sizes].result == [1_000_000] * 2
    assert 2_000_000 < sum(through_here) < 2_100_000


async def test_those_that_are_mapped_over_and_reduced_stay_too(cluster, through_here):
    with Flow("whole") as flow:
        made = task(lambda: [bytes([n]) * 1_000_000 for n in range(3)], name="make")()
        turned = task(lambda chunk: chunk[::-1], name="turn").map(made)
        total = task(lambda chunks: sum(len(chunk) for chunk in chunks), name="total")(turned)
        width = task(lambda chunks: len(chunks), name="width")(made)
    state = await FlowRunner(flow).run(executor=DaskExecutor(cluster), return_tasks=[total, width])
    assert (state.result[total].result, state.result[width].result) == (3_000_000, 3)
    assert sum(through_here) < 10_000


async def test_what_cannot_be_mapped_over_says_why_from_there(cluster, through_here):
    with Flow("text") as flow:
        made = task(lambda: "x" * 1_000_000, name="make")()
        done = task(lambda one: one, name="take").map(made)
        end = task(lambda some: some, name="end")(done)
    state = await FlowRunner(flow).run(executor=DaskExecutor(cluster), return_tasks=[done, end])
    assert "Cannot map over the result of task 'make'" in state.result[done].message
    assert sum(through_here) < 10_000


async def test_recorded_results_are_written_where_they_are_made(cluster, through_here, tmp_path):
    chunks = Chunks(result=LocalResult(tmp_path / "results"))
    settings = Settings(home=str(tmp_path))
    async with connect("memory://", settings=settings) as backend:
        runner = CloudFlowRunner(chunks.flow, backend=backend, settings=settings)
        state = await runner.run(executor=DaskExecutor(cluster), return_tasks=[chunks.all])
    assert state.result[chunks.all].result == [(1_000_000, n) for n in (1, 2, 3, 4)]
    assert sum(through_here) < 20_000
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert len(files) == 4 * 4 + 1
    assert sum(path.stat().st_size for path in files) > 4 * 5_000_000


async def test_what_a_worker_wrote_out_of_sight_is_written_here(cluster, tmp_path):
    class Elsewhere(LocalResult):
        async def exists(self, location, /, **kwargs):
            return location.startswith(str(tmp_path / "here"))

        async def write(self, value, /, **kwargs):
            folder = tmp_path / ("here" if os.getpid() == own else "there")
            new = self.at((await LocalResult(folder).write(value)).location)
            new.value = value
            return new

    own = os.getpid()
    chunks = Chunks(result=Elsewhere(tmp_path))
    settings = Settings(home=str(tmp_path))
    async with connect("memory://", settings=settings) as backend:
        runner = CloudFlowRunner(chunks.flow, backend=backend, settings=settings)
        state = await runner.run(executor=DaskExecutor(cluster), return_tasks=[chunks.all])
    assert state.result[chunks.all].result == [(1_000_000, n) for n in (1, 2, 3, 4)]
    assert len([path for path in (tmp_path / "here").rglob("*") if path.is_file()]) == 4 * 4 + 1


async def test_results_that_are_asked_for_come_back(cluster, through_here):
    chunks = Chunks()
    state = await FlowRunner(chunks.flow).run(executor=DaskExecutor(cluster))
    assert [len(one) for one in state.result[chunks.turned].result] == [2_000_000] * 4
    assert sum(through_here) > 20_000_000


def kills_the_worker():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)  # the process of the body ends with its worker


async def test_a_result_that_is_lost_with_its_worker_is_not_made_again_unseen(tmp_path):
    path = str(tmp_path / "marks")

    def makes(n):
        marked(path, "made")
        return bytes(2_000_000)

    def kills(chunk):
        if not os.path.exists(path + "killed"):
            marked(path + "killed", "killed")
            kills_the_worker()
        return len(chunk)

    with Flow("lost") as flow:
        taken = task(kills, max_retries=1, retry_delay=0, retry_on=Lost)(task(makes)(1))
    state = await FlowRunner(flow).run(executor=executor(processes=True), return_tasks=[taken])
    assert marks(path) == ["made"]
    assert isinstance(state.result[taken].result, Lost)
    assert "an input of it was lost with its Dask worker" in str(state.result[taken].result)


def nothing():
    pass


async def test_what_a_task_needs_is_asked_of_dask(cluster):
    seen = []

    class Client(distributed.Client):
        def map(self, *args, **kwargs):
            given = {name: kwargs.get(name) for name in ("resources", "priority", "retries")}
            seen.extend({"key": key, **given} for key in kwargs["key"])
            return super().map(*args, **{**kwargs, "resources": None})

    with Flow("needs") as flow:
        task(nothing, name="one", tags=["dask-resource:disk=2"], needs=Needs(gpus=1, priority=5))()
        task(nothing, name="two", needs=Needs(resources={"x": 1}, options={"dask": {"retries": 0}}))()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "Client", Client)
        assert (await FlowRunner(flow).run(executor=DaskExecutor(cluster))).is_successful()
    # they may be handed over twice: this module does not lie where the workers look
    first, second = (next(one for one in seen if one["priority"] == priority) for priority in (5, None))
    assert (first["resources"], first["priority"]) == ({"disk": 2.0, "GPU": 1}, 5)
    assert (second["resources"], second["retries"]) == ({"x": 1}, 0)
    # one prefix for all of them, however many there are
    assert {dask.utils.key_split(one["key"]) for one in seen} == {"body"}


# -- what is heard of them -----------------------------------------------------------------------------


async def test_all_that_bodies_log_and_print_is_heard(cluster, caplog, capsys):
    def says(n):
        for line in range(100):
            context.logger.info("line %d of %d", line, n)
        logging.getLogger("mine").debug("too quiet")
        print(f"printed {n}")
        print("to the end", end="")

    @task(log_stdout=True)
    def to_the_log():
        print("printed to the log")

    with Flow("says") as flow:
        task(says).map(list(range(20)))
        to_the_log()
    with caplog.at_level(logging.INFO, "flowloop"):
        assert (await FlowRunner(flow).run(executor=DaskExecutor(cluster))).is_successful()
    lines = [record for record in caplog.records if record.name == "flowloop.run"]
    assert len({record.getMessage() for record in lines}) == 2000 + 1
    assert all(record.flow_run_id for record in lines)
    assert "too quiet" not in caplog.text
    out = capsys.readouterr().out
    assert all(f"printed {n}\n" in out for n in range(20))
    assert out.count("to the end") == 20


# -- when it takes too long, or is stopped -------------------------------------------------------------


def marked(path, text):
    with open(path, "a") as file:
        file.write(text + "\n")


def marks(path):
    return Path(path).read_text().split()


async def marking(path, text):
    """Wait until a body has marked a file, in another process: it is heard to begin before it does."""
    while not (os.path.exists(path) and text in marks(path)):  # noqa: ASYNC110, ASYNC240
        await anyio.sleep(0.01)


def sleeps(path):
    try:
        marked(path, "begun")
        for _ in range(6000):
            time.sleep(0.01)
        marked(path, "to the end")
    except BaseException:
        marked(path, "stopped")
        raise


async def sleeps_on_the_loop(path):
    try:
        marked(path, "begun")
        await anyio.sleep(60)
        marked(path, "to the end")
    except BaseException:
        marked(path, "stopped")
        raise


@pytest.mark.parametrize("body", [sleeps, sleeps_on_the_loop])
async def test_a_timeout_stops_the_body(cluster, tmp_path, body):
    state = await one(task(body, timeout=1), cluster, runner_options=PATIENT, path=str(tmp_path / "marks"))
    assert isinstance(state, TimedOut)
    assert marks(tmp_path / "marks") == ["begun", "stopped"]


@pytest.mark.parametrize("body", [sleeps, sleeps_on_the_loop])
async def test_a_cancel_stops_the_body(cluster, tmp_path, body):
    with Flow("cancelled") as flow:
        done = task(body)(str(tmp_path / "marks"))
    runner = FlowRunner(flow, **PATIENT)

    async def cancel():
        await marking(tmp_path / "marks", "begun")
        runner.cancel("user")

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        state = await runner.run(executor=DaskExecutor(cluster))
    assert isinstance(state.result[done], Cancelled)
    assert marks(tmp_path / "marks") == ["begun", "stopped"]


async def test_a_body_in_a_process_of_its_own_is_stopped_wherever_it_sits(cluster, tmp_path):
    def stuck(path):
        open(path).close()  # in C, until somebody writes there

    os.mkfifo(path := tmp_path / "pipe")
    state = await one(task(stuck, timeout=1), cluster, runner_options=PATIENT, path=str(path))
    assert isinstance(state, TimedOut)
    assert "goes on" not in state.message


async def test_a_process_that_dies_loses_its_own_body_alone(cluster, tmp_path):
    def dies(n, path):
        if n == 1:
            marked(path, "died")
            os.kill(os.getpid(), signal.SIGKILL)
        while not os.path.exists(path):
            time.sleep(0.01)
        return n

    with Flow("dies") as flow:
        # no more than the cluster runs at once: they wait for the one that dies
        done = task(dies).map(list(range(3)), path=unmapped(str(tmp_path / "marks")))
    children = (await FlowRunner(flow).run(executor=DaskExecutor(cluster))).result[done].map_states
    assert [child.result for child in children if child.is_successful()] == [0, 2]
    assert isinstance(children[1].result, Lost)
    assert "killed by SIGKILL" in str(children[1].result)
    assert children[1].context["lost"] == {"may_have_run": True}


async def test_what_a_body_makes_that_cannot_be_pickled_is_named(cluster):
    def makes():
        return {"lock": threading.Lock()}

    state = await one(makes, cluster)
    assert "task 'makes': its result (a dict) cannot be pickled: ['lock'] is a _thread.lock" in str(state.result)


async def test_many_more_children_than_are_sent_at_once(cluster):
    def double(n):
        return 2 * n

    with Flow("wide") as flow:
        done = task(double).map(list(range(500)))
    state = await FlowRunner(flow).run(executor=DaskExecutor(cluster, window=50))
    assert state.result[done].result == [2 * n for n in range(500)]


# -- when something is lost ----------------------------------------------------------------------------


async def test_a_body_whose_worker_dies_runs_once_and_is_lost(cluster, tmp_path):
    path = str(tmp_path / "marks")

    def dies(n):
        marked(path, str(n))
        if n == 1:
            kills_the_worker()
        time.sleep(0.02)
        return n

    with Flow("dies") as flow:
        done = task(dies).map(list(range(12)))
    state = await FlowRunner(flow).run(executor=DaskExecutor(cluster))
    children = state.result[done].map_states
    lost = {n for n, child in enumerate(children) if child.is_failed()}
    assert 1 in lost
    assert all(isinstance(children[n].result, Lost) for n in lost)
    assert all(children[n].context["lost"] == {"may_have_run": True} for n in lost)
    done_once = [n for n in range(12) if n not in lost]
    assert [children[n].result for n in done_once] == done_once
    # each body once, or visibly lost
    ran = [int(one) for one in marks(path)]
    assert len(set(ran)) == len(ran)
    assert set(done_once) <= set(ran)


async def test_a_lost_body_is_run_again_where_the_task_says_so(cluster, tmp_path):
    path = str(tmp_path / "marks")

    @task(max_retries=1, retry_delay=0, retry_on=Lost)
    def dies_once():
        marked(path, "ran")
        if context.task_run_count == 1:
            kills_the_worker()
        return "there"

    assert (await one(dies_once, cluster)).result == "there"
    assert marks(path) == ["ran", "ran"]


async def test_a_body_that_may_rerun_does_so_by_itself(cluster, tmp_path):
    path = str(tmp_path / "marks")

    @task(needs=Needs(may_rerun=True))
    def dies_once():
        if not os.path.exists(path):
            marked(path, "ran")
            kills_the_worker()
        return "there"

    assert (await one(dies_once, cluster)).result == "there"


async def test_a_worker_that_is_given_up_loses_the_body():
    def dies():
        kills_the_worker()

    with Flow("dies") as flow:
        done = task(dies)()
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        state = await FlowRunner(flow).run(executor=executor(processes=True))
    assert isinstance(state.result[done].result, Lost)
    assert "task 'dies': it was lost on the Dask cluster" in str(state.result[done].result)


async def test_a_second_client_gets_the_answer_of_the_first(cluster, tmp_path):
    path = str(tmp_path / "marks")

    def slow():
        marked(path, "ran")
        time.sleep(1)
        return "there"

    job = place.Job(id="same", name="slow", body=slow, is_async=False)
    async with DaskExecutor(cluster).open() as first, DaskExecutor(cluster).open() as second:
        tickets = [await one.submit(job) for one in (first, second)]
        assert [await ticket.outcome() for ticket in tickets] == [place.Done("there")] * 2
    assert marks(path) == ["ran"]


async def test_whoever_takes_a_flow_run_over_gets_what_ended_meanwhile(cluster, tmp_path):
    path = str(tmp_path / "marks")

    def slow():
        marked(path, "ran")
        time.sleep(0.2)
        marked(path, "ended")
        return "there"

    job = place.Job(id="left", name="slow", body=slow, is_async=False, is_taken_over=True)
    async with DaskExecutor(cluster).open() as first:
        ticket = await first.submit(job)
        assert await ticket.began()
        assert await ticket.stop("handover", 60) is place.Fate.GOES_ON
    await marking(path, "ended")
    async with DaskExecutor(cluster).open() as second:
        ticket = await second.submit(job)
        assert await ticket.began()
        assert await ticket.outcome() == place.Done("there")
    assert marks(path) == ["ran", "ended"]


async def test_whoever_takes_a_flow_run_over_can_stop_what_it_did_not_begin(cluster, tmp_path):
    path = str(tmp_path / "marks")
    job = place.Job(
        id="stopped", name="s", body=sleeps, is_async=False, inputs={"path": path}, grace=60, is_taken_over=True
    )
    async with DaskExecutor(cluster).open() as first, DaskExecutor(cluster).open() as second:
        ticket = await first.submit(job)
        assert await ticket.began()
        await ticket.stop("handover", 60)
        ticket = await second.submit(job)
        assert await ticket.began()
        await marking(path, "begun")
        assert await ticket.stop("user", 60) is place.Fate.ENDED
    assert marks(path) == ["begun", "stopped"]


# -- a cluster that does not fit -----------------------------------------------------------------------


async def test_a_cluster_without_flowloop_is_refused_and_left_alive(bare_cluster):
    def body():
        return 1

    state = await one(body, bare_cluster)
    assert isinstance(state.result, ExecutorError)
    assert "has no flowloop: pip install flowloop==" in str(state.result)
    async with distributed.Client(bare_cluster, asynchronous=True) as client:
        assert await client.submit(len, "abc") == 3


async def test_a_worker_of_another_version_is_refused(cluster, monkeypatch):
    from flowloop.engine.executors import dask as module

    monkeypatch.setattr(module, "_versions", lambda info: {"python": "3.1", "flowloop": str(id(info))})
    state = await one(nothing, cluster)
    assert "use the same" in str(state.result)


# -- the executor --------------------------------------------------------------------------------------


async def test_it_is_pickled_before_and_after_it_is_started():
    made = executor()
    assert pickle.loads(pickle.dumps(made)).cluster_kwargs == made.cluster_kwargs
    async with made.start():
        again = pickle.loads(pickle.dumps(made))
    with pytest.raises(ExecutorError, match="not started"):
        await again.submit(len, "abc")


async def test_a_cluster_may_be_given_as_itself_and_as_a_client(cluster):
    async with distributed.Client(cluster, asynchronous=True) as client:
        assert DaskExecutor(client).address == cluster
    assert DaskExecutor(type("Cluster", (), {"scheduler_address": "tcp://there:1"})()).address == "tcp://there:1"


async def test_the_class_of_the_cluster_may_be_a_text():
    made = DaskExecutor(cluster_class="distributed.LocalCluster", cluster_kwargs=executor().cluster_kwargs)
    async with made.start():
        assert await made.submit(len, "abc") == 3
    with pytest.raises(ExecutorError, match=r"cannot make a cluster of 'distributed\.NoCluster'"):
        async with DaskExecutor(cluster_class="distributed.NoCluster").start():
            pass


def test_an_address_and_a_cluster_exclude_each_other():
    with pytest.raises(ValueError, match="not both"):
        DaskExecutor("tcp://127.0.0.1:8786", cluster_kwargs={"n_workers": 1})


async def test_without_dask_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ExecutorError, match=r"pip install 'flowloop\[dask\]'"):
        async with DaskExecutor().start():
            pass


async def test_nothing_is_left_at_the_scheduler(cluster):
    def left(dask_scheduler):
        names = {name for name in dask_scheduler._broker._topics if name.startswith("flowloop-")}
        begun = {name for name in dask_scheduler.extensions["events"]._events if name.startswith("body-")}
        return names | begun | set(dask_scheduler.tasks)

    async with distributed.Client(cluster, asynchronous=True) as client:
        before = await client.run_on_scheduler(left)
        assert (await FlowRunner(Chunks().flow).run(executor=DaskExecutor(cluster), return_tasks=[])).is_successful()
        # a moment after the client has gone
        while not await client.run_on_scheduler(left) <= before:  # noqa: ASYNC110
            await anyio.sleep(0.01)
