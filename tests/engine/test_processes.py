"""Task bodies in processes."""

import asyncio
import io
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import types

import anyio
import cloudpickle
import psutil
import pytest

from flowloop.engine import Flow, FlowRunner, Parameter, Secret, context, pause_task, run, task
from flowloop.engine.errors import ExecutorError
from flowloop.engine.executors import ProcessExecutor, _worker, processes
from flowloop.engine.executors._travel import ByName, by_name
from flowloop.engine.signals import FAIL, LOOP, RETRY, SKIP, VALIDATIONFAIL
from flowloop.engine.state import Cancelled, Failed, Paused, Skipped, Success, TimedOut, ValidationFailed
from flowloop.engine.task import Task


async def one(body, *, executor=None, runner_options=None, **inputs):
    """Run one task in processes, and return its state."""
    made = body if isinstance(body, Task) else task(body)
    with Flow("one") as flow:
        done = made(**inputs)
    state = await FlowRunner(flow, **(runner_options or {})).run(executor=executor or ProcessExecutor(1))
    return state.result[done]


@pytest.fixture
def caller():
    """Where a body says that it began; the line goes dead when its process does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)

        def accepted():
            line, _ = server.accept()
            line.settimeout(60)
            assert line.recv(100) == b"here"
            return line

        accepted.port = server.getsockname()[1]
        yield accepted


def ring(port):
    line = socket.create_connection(("127.0.0.1", port))
    line.sendall(b"here")
    return line


# -- bodies --------------------------------------------------------------------------------------------


async def test_sync_and_async_bodies_run_in_another_process():
    def sync(n):
        return n + 1, os.getpid()

    async def coroutine(n):
        await asyncio.sleep(0)
        return n + 2, os.getpid()

    with Flow("both") as flow:
        first, second = task(sync)(1), task(coroutine)(1)
    state = await FlowRunner(flow).run(executor=ProcessExecutor(1))
    (a, pid_a), (b, pid_b) = state.result[first].result, state.result[second].result
    assert (a, b) == (2, 3)
    assert pid_a == pid_b != os.getpid()


async def test_what_can_be_read_once_is_read_in_the_process_and_comes_back_as_a_list():
    def generates(n):
        yield from range(n)
        yield os.getpid()

    async def generates_async(n):
        yield n

    def holds(n):
        return [(one for one in range(n)), iter([n])]

    with Flow("generators") as flow:
        made = [task(body)(2) for body in (generates, generates_async, holds)]
    state = await FlowRunner(flow).run(executor=ProcessExecutor(1))
    first, second, third = (state.result[one].result for one in made)
    assert first[:2] == [0, 1]
    assert first[2] != os.getpid()
    assert second == [2]
    assert third == [[0, 1], [2]]


def workers():
    return [
        one.pid for one in psutil.Process().children() if any("executors._worker" in word for word in one.cmdline())
    ]


async def test_no_process_is_left_behind():
    with Flow("many") as flow:
        task(lambda n: n, name="same").map(list(range(5)))
    assert (await FlowRunner(flow).run(executor=ProcessExecutor(2))).is_successful()
    assert workers() == []


async def test_a_task_class_travels_with_its_attributes():
    class Adds(Task):
        def __init__(self, amount, **kwargs):
            self.amount = amount
            super().__init__(**kwargs)

        def run(self, n):
            return n + self.amount

    assert (await one(Adds(5), n=1)).result == 6


async def test_a_body_of_a_module_travels_by_name_and_keeps_what_its_module_holds(tmp_path, monkeypatch):
    (tmp_path / "held_by_module.py").write_text(
        textwrap.dedent("""
            import threading
            from flowloop.engine import task

            lock = threading.Lock()  # cannot be pickled
            calls = []

            @task
            def count():
                with lock:
                    calls.append(1)
                return len(calls)
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import held_by_module

    assert by_name(held_by_module.count.fn) == ByName("held_by_module", "count")
    with Flow("twice") as flow:
        first = held_by_module.count()
        second = held_by_module.count(upstream_tasks=[first])
    state = await FlowRunner(flow).run(executor=ProcessExecutor(1))
    assert [state.result[made].result for made in (first, second)] == [1, 2]
    assert held_by_module.calls == []


async def test_a_body_of_a_module_that_the_process_cannot_import_travels_as_a_pickle(monkeypatch):
    module = types.ModuleType("made_up_module")
    exec("def body():\n    return __name__\n", module.__dict__)
    module.body = task(module.__dict__["body"])
    monkeypatch.setitem(sys.modules, "made_up_module", module)
    assert by_name(module.body.fn) == ByName("made_up_module", "body")
    assert (await one(module.body)).result == "made_up_module"


async def test_as_many_bodies_run_at_once_as_there_are_processes(caller):
    port = caller.port

    def waits(n):
        line = ring(port)
        return n, line.recv(10)

    with Flow("two") as flow:
        done = task(waits).map([1, 2, 3])

    async def let_go():
        lines = [await anyio.to_thread.run_sync(caller) for _ in range(2)]
        assert len(workers()) == 2
        for line in lines:
            line.sendall(b"go")
        last = await anyio.to_thread.run_sync(caller)
        last.sendall(b"go")
        for line in [*lines, last]:
            line.close()

    async with anyio.create_task_group() as group:
        group.start_soon(let_go)
        state = await FlowRunner(flow).run(executor=ProcessExecutor(2))
    assert state.result[done].result == [(1, b"go"), (2, b"go"), (3, b"go")]


async def test_what_flowloop_computes_itself_does_not_travel(monkeypatch):
    monkeypatch.setattr(processes, "_process", lambda: pytest.fail("no process is needed for this"))
    monkeypatch.setenv("FLOWLOOP_SECRET__KEY", "k")
    with Flow("home") as flow:
        p = Parameter("p", default=[1, 2])
        out = (p[0] + p[1]) * 2
        Secret("KEY")()
    state = await FlowRunner(flow).run(executor=ProcessExecutor(1))
    assert state.result[out].result == 6


# -- what a body sees and says -------------------------------------------------------------------------


async def test_a_body_sees_the_run_context():
    def look():
        return {
            name: context.get(name) for name in ("task_name", "map_index", "parameters", "flow_name", "mine", "lock")
        }

    with Flow("context") as flow:
        Parameter("p", default=3)
        done = task(look).map(upstream_tasks=[[1]])
    state = await FlowRunner(flow).run(executor=ProcessExecutor(1), context={"mine": [1], "lock": threading.Lock()})
    assert state.result[done].result == [
        {"task_name": "look", "map_index": 0, "parameters": {"p": 3}, "flow_name": "context", "mine": [1], "lock": None}
    ]


async def test_what_a_body_prints_appears_here(capsys):
    def prints():
        print("first\nsecond", end=" ")
        print("third")
        print("no newline", end="")
        subprocess.run([sys.executable, "-c", "print('from below')"], check=True)

    assert (await one(prints)).is_successful()
    assert capsys.readouterr().out == "first\nsecond third\nno newline"


async def test_what_a_body_prints_goes_to_the_log_if_the_task_says_so(caplog, capsys):
    @task(log_stdout=True)
    def prints():
        print("to the log")

    with caplog.at_level(logging.INFO, "flowloop"):
        assert (await one(prints)).is_successful()
    assert [record.getMessage() for record in caplog.records if record.name == "flowloop.run"] == ["to the log"]
    assert capsys.readouterr().out == ""


async def test_what_a_body_logs_is_logged_here_with_the_ids_of_its_run(caplog):
    def logs():
        context.logger.info("of the run %d", 1)
        context.logger.debug("too quiet")
        logging.getLogger("mine").warning("mine")
        try:
            raise ValueError("inside")
        except ValueError:
            context.logger.exception("with a traceback")

    with caplog.at_level(logging.INFO, "flowloop"):
        assert (await one(logs)).is_successful()
    records = {record.getMessage().partition("\n")[0]: record for record in caplog.records}
    assert {"of the run 1", "mine", "with a traceback"} <= records.keys()
    assert "too quiet" not in records
    assert records["of the run 1"].task_name == "logs"
    assert records["of the run 1"].flow_run_id
    assert "ValueError: inside" in caplog.text


# -- how it ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signal_class", "kind"), [(SKIP, Skipped), (FAIL, Failed), (VALIDATIONFAIL, ValidationFailed)]
)
async def test_signals_set_the_state(signal_class, kind):
    def raises():
        raise signal_class("why")

    state = await one(raises)
    assert type(state) is kind
    assert state.message == "why"
    assert isinstance(state.result, signal_class)


async def test_loops_retries_and_pauses_work():
    def loops():
        count = context.get("task_loop_count", 1)
        if count < 3:
            raise LOOP(result=count)
        return context.task_loop_result, count

    def retries():
        if context.task_run_count == 1:
            raise RETRY("again")
        return context.task_run_count

    def pauses():
        pause_task("wait")

    executor = ProcessExecutor(1)
    assert (await one(loops, executor=executor)).result == (2, 3)
    assert (await one(retries, executor=executor)).result == 2
    assert isinstance(await one(pauses, executor=executor), Paused)


async def test_an_error_comes_back_with_where_it_was_raised():
    def fails():
        raise KeyError("k")

    state = await one(fails)
    assert isinstance(state.result, KeyError)
    assert state.result.args == ("k",)
    assert 'raise KeyError("k")' in "".join(state.result.__notes__)


class Coded(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


class Locked(Exception):
    def __init__(self):
        super().__init__("locked", threading.Lock())
        self.lock, self.kept = threading.Lock(), [1]


class Unreadable(Exception):
    def __reduce__(self):
        return int, ("no number",)


class Slotted(OSError):
    __slots__ = ("extra",)

    def __init__(self, extra):
        super().__init__(2, "is missing", "a/file")
        self.extra = extra


def chained():
    try:
        raise Coded(1, "first")
    except Coded as error:
        raise KeyError("second") from error


ERRORS = [
    (lambda: Coded(503, "later"), lambda one: (one.code, str(one)), (503, "503: later")),
    (lambda: ExceptionGroup("g", [Coded(1, "a"), KeyError(2)]), lambda one: one.exceptions[0].code, 1),
    (
        Locked,
        lambda one: (one.args[0], "lock" in one.args[1], "lock" in one.lock, one.kept),
        ("locked", True, True, [1]),
    ),
    (Unreadable, lambda one: one.args, ()),
    (lambda: Slotted(7), lambda one: (one.errno, one.filename, one.extra), (2, "a/file", 7)),
    (lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "why"), lambda one: (one.start, one.reason), (0, "why")),
    (lambda: FAIL("on purpose"), lambda one: (one.state.message, one.state.result is one), ("on purpose", True)),
]


@pytest.mark.parametrize(("make", "look", "expected"), ERRORS, ids=lambda one: getattr(one, "__name__", None))
async def test_errors_travel_whole_and_of_their_own_kind(make, look, expected):
    def raises():
        raise make()

    def returns():
        return [make()]

    with Flow("errors") as flow:
        raised, returned = task(raises)(), task(returns)()
        again = task(lambda errors: errors, name="again")(returned)
    state = await FlowRunner(flow).run(executor=ProcessExecutor(1))
    for found in (state.result[raised].result, state.result[returned].result[0], state.result[again].result[0]):
        assert type(found) is type(make())
        assert look(found) == expected


async def test_an_error_travels_with_its_cause():
    error = (await one(chained)).result
    assert isinstance(error, KeyError)
    assert error.__cause__.code == 1
    assert error.__suppress_context__


async def test_an_error_is_retried_by_its_kind():
    @task(max_retries=1, retry_delay=0, retry_on=Coded)
    def flaky():
        if context.task_run_count == 1:
            raise Coded(503, "later")
        return "there"

    assert (await one(flaky)).result == "there"


async def test_stdout_is_a_whole_stream(capfd):
    def prints():
        assert (sys.stdout.encoding, sys.stdout.isatty(), sys.stdout.writable()) == ("utf-8", False, True)
        sys.stdout.buffer.write("bytes é\n".encode())
        sys.stdout.flush()
        print("text é")
        os.write(sys.stdout.fileno(), b"below\n")
        return isinstance(sys.stdout, io.TextIOWrapper)

    assert (await one(prints)).result is True
    out, err = capfd.readouterr()
    assert out == "bytes é\ntext é\n"
    assert "below" in err


async def test_a_body_that_closes_its_stdout_closes_nobody_elses(capsys):
    with Flow("closes") as flow:
        first = task(lambda: sys.stdout.close(), name="closes")()
        task(lambda: print("still here"), name="prints")(upstream_tasks=[first])
    assert (await FlowRunner(flow).run(executor=ProcessExecutor(1))).is_successful()
    assert capsys.readouterr().out == "still here\n"


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"db": [1, threading.Lock()]}, "['db'][1] is a _thread.lock: "),
        ([types.SimpleNamespace(inner={"lock": threading.Lock()})], "[0].inner['lock'] is a _thread.lock: "),
    ],
)
async def test_what_a_value_is_made_of_is_named(value, where):
    made = {}
    exec("import threading\ndef build(): return {'deep': (0, threading.Lock())}", made)
    said = str((await one(lambda held: held, held=value)).result)
    assert f"its argument 'held' (a {type(value).__name__}) cannot be pickled: {where}" in said
    said = str((await one(made["build"])).result)
    assert "its result (a dict) cannot be pickled: ['deep'][1] is a _thread.lock: " in said


async def test_a_body_that_cancels_itself_has_failed():
    async def gives_up():
        raise asyncio.CancelledError

    state = await one(gives_up)
    assert isinstance(state, Failed)
    assert "from within" in state.message


async def test_cutting_a_body_short_kills_its_process_and_only_that(caller):
    port = caller.port

    def stuck():
        with ring(port) as line:
            line.recv(1)

    def patient():
        with ring(port) as line:
            return line.recv(10)

    executor = ProcessExecutor(2)
    answers = []

    async def run_patient():
        answers.append(await executor.submit(patient))

    async def run_stuck(scope):
        with scope:
            await executor.submit(stuck)

    async with executor.start(), anyio.create_task_group() as group:
        scope = anyio.CancelScope()
        group.start_soon(run_stuck, scope)
        with await anyio.to_thread.run_sync(caller) as stuck_line:
            group.start_soon(run_patient)
            with await anyio.to_thread.run_sync(caller) as patient_line:
                scope.cancel()
                assert await anyio.to_thread.run_sync(stuck_line.recv, 1) == b""
                patient_line.sendall(b"go on")
    assert answers == [b"go on"]


async def test_a_process_that_dies_fails_its_own_body_and_a_retry_cures_it(tmp_path):
    marker = str(tmp_path / "died")

    @task(max_retries=1, retry_delay=0)
    def dies(n):
        if n == 1 and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    changes = []
    with Flow("dies") as flow:
        done = dies.map([0, 1, 2])
    state = await FlowRunner(flow).run(
        executor=ProcessExecutor(2),
        task_runner_state_handlers=[lambda r, old, new: changes.append(new) if new.is_failed() else None],
    )
    assert state.result[done].result == [0, 1, 2]
    (failure,) = changes
    assert isinstance(failure.result, ExecutorError)
    assert "task 'dies[1]': the process that ran it ended: killed by SIGKILL" in str(failure.result)


async def test_a_body_that_leaves_its_process_has_failed():
    def leaves():
        os._exit(3)

    state = await one(leaves)
    assert isinstance(state.result, ExecutorError)
    assert "exit code 3" in str(state.result)


async def test_a_body_that_exits_fails_as_it_does_anywhere_else():
    def leaves():
        sys.exit(3)

    state = await one(leaves)
    assert state.is_failed()
    assert isinstance(state.result, SystemExit)
    assert state.result.code == 3


async def test_cancelling_kills_what_the_body_started_too(caller):
    port = caller.port

    def stuck():
        code = f"import socket; s = socket.create_connection(('127.0.0.1', {port})); s.sendall(b'here'); s.recv(1)"
        subprocess.run([sys.executable, "-c", code], check=True)

    with Flow("cancel") as flow:
        done = task(stuck)()
    runner = FlowRunner(flow)

    async def cancel():
        line = await anyio.to_thread.run_sync(caller)
        runner.cancel("user")
        with line:
            assert await anyio.to_thread.run_sync(line.recv, 1) == b""

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        state = await runner.run(executor=ProcessExecutor(1))
    assert isinstance(state.result[done], Cancelled)


async def test_a_process_that_was_killed_is_replaced():
    def pid():
        return os.getpid()

    @task(timeout=1)
    def stuck():
        threading.Event().wait()

    with Flow("replaced") as flow:
        first = task(pid)()
        then = stuck(upstream_tasks=[first])
        last = task(pid, trigger=lambda up: True)(upstream_tasks=[then])
    state = await FlowRunner(flow).run(executor=ProcessExecutor(1))
    assert isinstance(state.result[then], TimedOut)
    assert state.result[then].message.endswith("Its process was killed.")
    assert isinstance(state.result[last], Success)
    assert state.result[first].result != state.result[last].result


# -- what cannot travel --------------------------------------------------------------------------------


class Locked:
    def __init__(self):
        self.lock = threading.Lock()


async def test_an_argument_that_cannot_be_pickled_is_named():
    def uses(fine, other):
        pass

    error = (await one(uses, fine=1, other=threading.Lock())).result
    assert isinstance(error, ExecutorError)
    assert "task 'uses' cannot run in another process: its argument 'other' (a _thread.lock) cannot be pickled" in str(
        error
    )


async def test_a_variable_that_cannot_be_pickled_is_named():
    held = Locked()

    def uses():
        return held.lock

    error = (await one(uses)).result
    assert "its variable 'held', which its body uses, (a " in str(error)
    assert "Locked) cannot be pickled" in str(error)


async def test_an_attribute_that_cannot_be_pickled_is_named():
    class Holds(Task):
        def __init__(self):
            super().__init__(name="holds")
            self.connection = threading.Lock()

        def run(self):
            pass

    error = (await one(Holds())).result
    assert "task 'holds' cannot run in another process: its attribute 'connection' (a _thread.lock)" in str(error)


async def test_a_result_that_cannot_be_pickled_is_named():
    def locks():
        return threading.Lock()

    error = (await one(locks)).result
    assert isinstance(error, ExecutorError)
    assert "task 'locks': its result (a _thread.lock) cannot be pickled" in str(error)


async def test_a_result_that_can_be_written_but_not_read_is_an_error_of_that_task_only():
    class Odd:
        def __reduce__(self):
            return (int, ("no number",))

    executor = ProcessExecutor(1)
    with Flow("odd") as flow:
        first = task(lambda: Odd(), name="odd")()
        second = task(lambda: 1, name="fine", trigger=lambda up: True)(upstream_tasks=[first])
    state = await FlowRunner(flow).run(executor=executor)
    assert "cannot be pickled" in str(state.result[first].result)
    assert state.result[second].result == 1


# -- the executor --------------------------------------------------------------------------------------


async def test_it_can_be_pickled_before_and_after_it_is_started():
    executor = ProcessExecutor(3)
    assert pickle.loads(pickle.dumps(executor)).processes == 3
    async with executor.start():
        assert await executor.submit(os.getpid) != os.getpid()
        again = cloudpickle.loads(cloudpickle.dumps(executor))
        assert again.processes == 3
        async with again.start():
            assert await again.submit(os.getpid) not in (os.getpid(), await executor.submit(os.getpid))


async def test_it_wants_to_be_started():
    with pytest.raises(ExecutorError, match=r"async with executor\.start\(\)"):
        await ProcessExecutor(1).submit(os.getpid)


async def test_positional_arguments_arrive():
    async with (executor := ProcessExecutor(1)).start():
        assert await executor.submit(divmod, 7, 2) == (3, 1)
        with pytest.raises(ExecutorError, match="argument number 1"):
            await executor.submit(repr, threading.Lock())


def test_the_number_of_processes():
    assert ProcessExecutor().processes >= 1
    with pytest.raises(ValueError, match="at least 1, not 0"):
        ProcessExecutor(0)


def test_one_executor_serves_one_run_after_the_other():
    executor = ProcessExecutor(1)
    with Flow("again") as flow:
        task(os.getpid, name="pid")()
    for _ in range(2):
        assert run(flow, executor=executor).is_successful()


SCRIPT = """
    import os, signal, socket, sys
    from flowloop.engine import Flow, run, task
    from flowloop.engine.executors import ProcessExecutor

    @task(state_handlers=[lambda t, old, new: print(type(new).__name__, flush=True)])
    def stuck():
        with socket.create_connection(("127.0.0.1", {port})) as line:
            line.sendall(b"here")
            line.recv(1)

    with Flow("stuck") as flow:
        stuck()
    run(flow, executor=ProcessExecutor(1))
"""


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_the_processes_end_with_the_one_that_started_them(caller, how):
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT).format(port=caller.port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,
        text=True,
    )
    with caller() as line:
        os.killpg(child.pid, getattr(signal, how))
        assert line.recv(1) == b""
    out, _ = child.communicate(timeout=60)
    told = [state for state in out.split() if state != "Running"]  # a body can begin before that is told
    assert told == ["Submitted", *(["Cancelled"] if how == "SIGINT" else [])]


class InterruptedStream(io.BytesIO):
    """A stream amid whose writes Ctrl-C is pressed."""

    def write(self, data):
        signal.raise_signal(signal.SIGINT)
        return super().write(data)


def test_an_interrupt_waits_until_what_is_being_said_is_out():
    stream = InterruptedStream()
    output = _worker._Output(stream)
    before = signal.signal(signal.SIGINT, output.interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            output.send("printed", b"a line")
        assert _worker.read_frame(io.BytesIO(stream.getvalue())) == pickle.dumps("printed")
        assert stream.getvalue().endswith(b"a line")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
