"""A flow run that is alive: it is cancelled from elsewhere, says that it lives, and sends what it logs."""

import asyncio
import logging
import threading

import anyio
import msgspec
import pytest

from flowloop.engine import Flow, context, task
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.cloud.logs import LogShipper
from flowloop.engine.context import unheard
from flowloop.engine.errors import BackendRejected, BackendUnavailable, FlowRunOwned, OwnershipLost
from flowloop.engine.masking import hide
from flowloop.engine.signals import FAIL
from flowloop.engine.state import Cancelled, Failed, Pending, Running, Success
from flowloop.engine.testing import FaultyBackend

pytestmark = pytest.mark.virtual_time


def at():
    return asyncio.get_running_loop().time()


class Deaf(FaultyBackend):
    """A backend that cannot push."""

    def watch_flow_run(self, flow_run_id):
        return None


class Slow:
    """A flow of three tasks: one that is quick, one that takes a minute, and one after that."""

    def __init__(self):
        self.ended = []

        @task
        async def quick(): ...

        @task
        async def slow():
            try:
                await anyio.sleep(60)
            except asyncio.CancelledError:
                self.ended.append(at())
                raise

        @task
        async def after(): ...

        with Flow("slow") as self.flow:
            self.quick = quick()
            self.slow = slow(upstream_tasks=[self.quick])
            self.after = after(upstream_tasks=[self.slow])

    async def begin(self, backend, settings, **options):
        """Begin a run; return its id and the asyncio task that it is."""
        flow_run_id = await create_flow_run(self.flow, backend, settings=settings)
        runner = CloudFlowRunner(self.flow, backend=backend, settings=settings, **options)
        run = asyncio.create_task(runner.run(context={"flow_run_id": flow_run_id}))
        await anyio.sleep(10)
        return flow_run_id, run


async def recorded(backend, flow_run_id):
    info = await backend.get_flow_run_info(flow_run_id)
    return {run.task_slug: run.state for run in info.task_runs}


# -- cancelling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pushes", [True, False])
async def test_a_cancelled_run_ends_at_once_or_at_the_next_poll(memory, settings, pushes):
    settings = msgspec.structs.replace(settings, check_cancellation_interval=15.0)
    slow = Slow()
    flow_run_id, run = await slow.begin(memory if pushes else Deaf(memory), settings)
    assert await memory.cancel_flow_run(flow_run_id) == "Cancelling"
    state = await run
    assert at() == pytest.approx(10 if pushes else 15, abs=0.5)
    assert slow.ended == [at()]
    assert (type(state), state.context["cause"]) == (Cancelled, "user")
    assert type(await memory.get_flow_run_state(flow_run_id)) is Cancelled
    states = await recorded(memory, flow_run_id)
    assert [type(states[slug]) for slug in ("quick-1", "slow-1", "after-1")] == [Success, Cancelled, Cancelled]
    assert states["slow-1"].context["cause"] == "user"
    assert type(state.result[slow.quick]) is Success
    assert type(state.result[slow.after]) is Cancelled


async def test_a_run_on_a_database_is_cancelled_by_its_own_process_at_once(database, settings):
    slow = Slow()
    flow_run_id, run = await slow.begin(database, settings)
    await database.cancel_flow_run(flow_run_id)
    assert type(await run) is Cancelled
    assert at() == pytest.approx(10, abs=0.5)


async def test_polls_that_fail_are_made_again(memory, settings):
    settings = msgspec.structs.replace(settings, check_cancellation_interval=15.0)
    backend = Deaf(memory)
    backend.fail("get_flow_run_state", BackendUnavailable("away"), times=2)
    flow_run_id, run = await Slow().begin(backend, settings)
    await memory.cancel_flow_run(flow_run_id)
    assert type(await run) is Cancelled
    assert at() == pytest.approx(45, abs=0.5)


async def test_a_run_that_somebody_recorded_as_cancelled_stops_without_recording_more(memory, settings):
    slow = Slow()
    flow_run_id, run = await slow.begin(memory, settings)
    await memory.set_flow_run_state(flow_run_id, None, Cancelled("by hand"))
    state = await run
    assert (type(state), state.message) == (Cancelled, "by hand")
    assert at() == pytest.approx(10, abs=0.5)
    assert (await memory.get_flow_run_info(flow_run_id)).version == 3
    assert type((await recorded(memory, flow_run_id))["slow-1"]) is Cancelled


@pytest.mark.parametrize("final", [Success, Failed])
async def test_a_run_that_another_runner_brought_to_its_end_stops_here(memory, settings, final):
    slow = Slow()
    flow_run_id, run = await slow.begin(memory, settings)
    info = await memory.get_flow_run_info(flow_run_id)
    for one in info.task_runs:
        if one.task_slug == "slow-1":
            await memory.set_task_run_state(one.id, None, Running("theirs"), epoch=1)
            await memory.set_task_run_state(one.id, None, Success("theirs"))
    await memory.set_flow_run_state(flow_run_id, None, final("theirs"))
    state = await run
    assert (type(state), state.message) == (final, "theirs")
    assert slow.ended == [pytest.approx(10, abs=0.5)]
    states = await recorded(memory, flow_run_id)
    assert (type(states["slow-1"]), states["slow-1"].message) == (Success, "theirs")
    # with the flow run, what it had not begun is over, too
    assert type(states["after-1"]) is Cancelled


async def test_a_cancel_that_comes_while_the_run_ends_is_heeded(memory, settings):
    slow = Slow()
    backend = Deaf(memory)
    backend.delay("set_flow_run_state", 5, where=lambda sent: sent["state"].is_finished())
    flow_run_id, run = await slow.begin(backend, settings)
    await anyio.sleep(52)
    await memory.cancel_flow_run(flow_run_id)
    assert type(await run) is Cancelled
    assert type(await memory.get_flow_run_state(flow_run_id)) is Cancelled


async def test_a_run_whose_runner_died_while_it_was_cancelled_is_ended_by_the_next_one(memory, settings):
    slow = Slow()
    flow_run_id = await create_flow_run(slow.flow, memory, settings=settings)
    await memory.set_flow_run_state(flow_run_id, None, Running())
    await memory.cancel_flow_run(flow_run_id)
    runner = CloudFlowRunner(slow.flow, backend=memory, settings=settings, takeover=False)
    with pytest.raises(FlowRunOwned):
        await runner.run(context={"flow_run_id": flow_run_id})
    runner = CloudFlowRunner(slow.flow, backend=memory, settings=settings, takeover=True)
    assert type(await runner.run(context={"flow_run_id": flow_run_id})) is Cancelled
    assert {type(state) for state in (await recorded(memory, flow_run_id)).values()} == {Cancelled}


# -- handing over ----------------------------------------------------------------------------------------


async def test_a_run_that_is_handed_over_is_not_over(memory, settings):
    slow = Slow()
    flow_run_id = await create_flow_run(slow.flow, memory, settings=settings)
    runner = CloudFlowRunner(slow.flow, backend=memory, settings=settings)
    run = asyncio.create_task(runner.run(context={"flow_run_id": flow_run_id}))
    await anyio.sleep(10)
    runner.cancel("handover")
    state = await run
    assert state.is_scheduled()
    assert (await memory.get_flow_run_state(flow_run_id)).is_scheduled()
    states = await recorded(memory, flow_run_id)
    assert [type(states[slug]) for slug in ("quick-1", "slow-1", "after-1")] == [Success, Pending, Pending]
    runner = CloudFlowRunner(slow.flow, backend=memory, settings=settings)
    assert (await runner.run(context={"flow_run_id": flow_run_id})).is_successful()


# -- heartbeats ------------------------------------------------------------------------------------------


async def test_a_run_says_that_it_lives_for_as_long_as_it_does(memory, settings):
    settings = msgspec.structs.replace(settings, heartbeat_interval=29.0)
    backend = FaultyBackend(memory)
    _, run = await Slow().begin(backend, settings)
    await anyio.sleep(25)
    assert backend.counts["update_flow_run_heartbeat"] == 1
    await run
    assert backend.counts["update_flow_run_heartbeat"] == 2
    await anyio.sleep(100)
    assert backend.counts["update_flow_run_heartbeat"] == 2


async def test_a_heartbeat_that_is_not_heard_does_not_stop_the_run(memory, settings):
    settings = msgspec.structs.replace(settings, heartbeat_interval=29.0)
    backend = FaultyBackend(memory)
    backend.fail("update_flow_run_heartbeat", BackendUnavailable("away"), times=None)
    _, run = await Slow().begin(backend, settings)
    assert (await run).is_successful()
    assert backend.counts["update_flow_run_heartbeat"] == 2


# -- whose run it is -------------------------------------------------------------------------------------


async def test_a_run_whose_runner_lives_is_not_taken_over(memory, settings):
    settings = msgspec.structs.replace(settings, heartbeat_interval=30.0)
    slow = Slow()
    flow_run_id, run = await slow.begin(memory, settings)
    second = CloudFlowRunner(slow.flow, backend=memory, settings=settings)
    with pytest.raises(FlowRunOwned, match=flow_run_id):
        await second.run(context={"flow_run_id": flow_run_id})
    following = asyncio.create_task(second.follow())
    assert (await run).is_successful()
    assert (await following).is_successful()
    assert slow.ended == []


async def test_a_run_that_was_silent_for_two_heartbeats_is_taken_over(memory, settings):
    settings = msgspec.structs.replace(settings, heartbeat_interval=30.0)
    slow = Slow()
    flow_run_id = await create_flow_run(slow.flow, memory, settings=settings)
    await memory.set_flow_run_state(flow_run_id, None, Running())
    info = await memory.get_flow_run_info(flow_run_id)
    for one in info.task_runs:
        await memory.set_task_run_state(one.id, None, Running())
    for wait, taken in [(59, False), (2, True)]:
        await anyio.sleep(wait)
        run = CloudFlowRunner(slow.flow, backend=memory, settings=settings).run(context={"flow_run_id": flow_run_id})
        if taken:
            assert (await run).is_successful()
        else:
            with pytest.raises(FlowRunOwned):
                await run


async def test_a_runner_that_was_taken_over_leaves_the_run_to_its_successor(memory, settings):
    ran = []

    @task
    async def one(n):
        ran.append((n, context.who))
        await anyio.sleep(10)
        return n

    with Flow("chain") as flow:
        made = 0
        for _ in range(5):
            made = one(made + 1)
    flow_run_id = await create_flow_run(flow, memory, settings=settings)

    def begin(who):
        runner = CloudFlowRunner(flow, backend=Deaf(memory), settings=settings, takeover=True)
        return asyncio.create_task(runner.run(context={"flow_run_id": flow_run_id, "who": who}))

    first = begin("first")
    await anyio.sleep(15)
    second = begin("second")
    with pytest.raises(OwnershipLost, match="goes on there"):
        await first
    assert at() == pytest.approx(20, abs=0.5), "the first learns of it when it wants to record the next state"
    assert (await second).is_successful()
    assert ran == [(1, "first"), (2, "first"), *((n, "second") for n in (2, 3, 4, 5))]
    assert type(await memory.get_flow_run_state(flow_run_id)) is Success


async def test_what_the_former_runner_has_not_begun_it_does_not_begin(memory, settings):
    @task
    async def quick(n): ...

    @task
    async def slow(n):
        ran.append((n, context.who))
        await anyio.sleep(20)

    ran = []
    with Flow("late") as flow:
        for n in range(3):
            slow(n, upstream_tasks=[quick(n)])
    flow_run_id = await create_flow_run(flow, memory, settings=settings)

    def begin(who, backend):
        runner = CloudFlowRunner(flow, backend=backend, settings=settings, takeover=True)
        return asyncio.create_task(runner.run(context={"flow_run_id": flow_run_id, "who": who}))

    # while the second one reads and takes over, the first one begins with what was Pending when the second read it
    held_up = Deaf(memory)
    held_up.delay("set_task_run_state", 10, times=3, where=lambda sent: sent["state"].is_running())
    taking_over = Deaf(memory)
    taking_over.delay("set_flow_run_state", 4)
    first = begin("first", held_up)
    await anyio.sleep(8)
    second = begin("second", taking_over)
    with pytest.raises(OwnershipLost):
        await first
    assert (await second).is_successful()
    assert sorted(ran) == [(n, "second") for n in range(3)]
    _, task_runs = await memory.get_flow_run_history(flow_run_id)
    states = [[one.state for one in run.states] for run in task_runs if run.task_slug.startswith("slow")]
    assert states == [["Pending", "Running", "Success"]] * 3


@pytest.mark.parametrize("apart", [0, 5])
async def test_of_two_runners_of_one_run_in_one_process_one_runs_it(backend, settings, apart):
    ran = []

    @task
    async def work(n):
        ran.append(n)
        await anyio.sleep(10)

    with Flow("twice") as flow:
        work.map([1, 2, 3])
    flow_run_id = await create_flow_run(flow, backend, settings=settings)

    async def run():
        runner = CloudFlowRunner(flow, backend=backend, settings=settings)
        return await runner.run(context={"flow_run_id": flow_run_id})

    first = asyncio.create_task(run())
    await anyio.sleep(apart)
    second = asyncio.create_task(run())
    ends = await asyncio.gather(first, second, return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["FlowRunOwned", "Success"]
    assert sorted(ran) == [1, 2, 3]


# -- logs ------------------------------------------------------------------------------------------------


@pytest.fixture
def info_level():
    logger = logging.getLogger("flowloop")
    before = logger.level
    logger.setLevel("INFO")
    yield
    logger.setLevel(before)


@pytest.mark.usefixtures("info_level")
async def test_what_a_run_logs_is_sent_with_the_run_that_logged_it(memory, settings):
    @task
    async def talk(n):
        context.logger.info("number %s", n)
        await anyio.sleep(20)

    with Flow("talk") as flow:
        talk.map([1, 2])
    flow_run_id = await create_flow_run(flow, memory, settings=settings)
    run = asyncio.create_task(
        CloudFlowRunner(flow, backend=memory, settings=settings).run(context={"flow_run_id": flow_run_id})
    )
    await anyio.sleep(6)
    assert [line.message for line in memory.logs] == ["number 1", "number 2"], "while the run goes on"
    await run
    _, task_runs = await memory.get_flow_run_history(flow_run_id)
    ids = {run.map_index: run.id for run in task_runs if run.task_slug == "talk-1"}
    assert {(line.flow_run_id, line.task_run_id, line.message, line.level) for line in memory.logs} == {
        (flow_run_id, ids[0], "number 1", "INFO"),
        (flow_run_id, ids[1], "number 2", "INFO"),
    }


@pytest.mark.usefixtures("info_level")
async def test_what_is_logged_last_is_sent_before_the_run_is_over(memory, settings):
    @task
    async def talk():
        context.logger.info("the last word")

    with Flow("talk") as flow:
        flow.add_task(talk)
    backend = FaultyBackend(memory)
    backend.fail("write_run_logs", BackendUnavailable("away"), times=0)
    sent = []
    original = backend._called

    async def noted(call, args, kwargs):
        if call.method in ("start_flow_run", "write_run_logs", "set_flow_run_state"):
            sent.append(call.method)
        return await original(call, args, kwargs)

    backend._called = noted
    await CloudFlowRunner(flow, backend=backend, settings=settings).run()
    assert sent == ["start_flow_run", "write_run_logs", "set_flow_run_state"]


@pytest.mark.usefixtures("info_level")
async def test_lines_of_two_runs_at_once_are_kept_apart(memory, settings):
    @task
    async def talk():
        context.logger.info("from %s", context.flow_run_id)
        await anyio.sleep(1)

    with Flow("talk") as flow:
        flow.add_task(talk)
    ids = [await create_flow_run(flow, memory, settings=settings) for _ in range(2)]
    async with anyio.create_task_group() as group:
        for flow_run_id in ids:
            runner = CloudFlowRunner(flow, backend=memory, settings=settings)
            group.start_soon(lambda r=runner, i=flow_run_id: r.run(context={"flow_run_id": i}))
    assert sorted((line.flow_run_id, line.message) for line in memory.logs) == sorted(
        (flow_run_id, f"from {flow_run_id}") for flow_run_id in ids
    )


@pytest.mark.usefixtures("info_level")
async def test_lines_wait_while_the_backend_is_away(memory, settings):
    @task
    async def talk():
        for n in range(3):
            context.logger.info("line %s", n)
            await anyio.sleep(6)

    with Flow("talk") as flow:
        flow.add_task(talk)
    backend = FaultyBackend(memory)
    backend.fail("write_run_logs", BackendUnavailable("away"), times=2)
    state = await CloudFlowRunner(flow, backend=backend, settings=settings).run()
    assert state.is_successful()
    assert [line.message for line in memory.logs] == ["line 0", "line 1", "line 2"]


def logged(text, *args, level=logging.INFO):
    record = logging.LogRecord("name", level, "path", 1, text, args, None)
    record.flow_run_id = "run"
    return record


async def test_too_many_lines_push_out_the_oldest_and_a_line_says_how_many(memory, monkeypatch, caplog):
    monkeypatch.setattr("flowloop.engine.cloud.logs._MOST_LINES", 10)
    shipper = LogShipper(memory, "run")
    for n in range(13):
        shipper.keep(logged("line %s", n))
    await shipper.send()
    assert [line.message for line in memory.logs[1:]] == [f"line {n}" for n in range(3, 13)]
    assert memory.logs[0].message.startswith("3 lines were dropped here")
    assert "3 lines were dropped here" in caplog.text
    shipper.conclude()
    assert len(caplog.messages) == 1


async def test_what_waits_is_bounded_in_characters_too(memory, monkeypatch):
    monkeypatch.setattr("flowloop.engine.cloud.logs._MOST_CHARACTERS", 100)
    shipper = LogShipper(memory, "run")
    for letter in "abcde":
        shipper.keep(logged(letter * 40))
    await shipper.send()
    assert [line.message[:2] for line in memory.logs[1:]] == ["dd", "ee"]
    for letter in "fg":  # what was sent takes no room
        shipper.keep(logged(letter * 40))
    await shipper.send()
    assert [line.message[:2] for line in memory.logs[3:]] == ["ff", "gg"]


class Unshowable:
    def __str__(self):
        raise ValueError("cannot be shown")

    __repr__ = __str__


class Panic(BaseException):
    pass


class Panicking:
    def __str__(self):
        raise Panic(self)

    __repr__ = __str__


@pytest.mark.parametrize(
    ("text", "args", "stored"),
    [
        ("%d rows", ("many",), "%d rows ('many',)"),
        ("%s and %s", ("one",), "%s and %s ('one',)"),
        ("no place", ("extra",), "no place ('extra',)"),
        (Unshowable(), (), "<Unshowable>"),
        ("%s", (Unshowable(),), "%s <tuple>"),
        (Panicking(), (), "<Panicking>"),
        ("%s", (Panicking(),), "%s <tuple> (this line is malformed: <Panic>)"),
        ("a file b\udcff.txt", (), "a file b\\udcff.txt"),
        ("a \x00 byte", (), "a \ufffd byte"),
    ],
)
async def test_a_line_that_cannot_be_written_is_kept_as_it_was_called(memory, text, args, stored):
    shipper = LogShipper(memory, "run")
    shipper.keep(logged(text, *args))
    await shipper.send()
    (line,) = memory.logs
    assert line.message.startswith(stored)


async def test_no_line_drives_out_all_others(memory, monkeypatch):
    monkeypatch.setattr("flowloop.engine.cloud.logs._MOST_CHARACTERS", 1_000)
    monkeypatch.setattr("flowloop.engine.cloud.logs._LONGEST_LINE", 100)
    shipper = LogShipper(memory, "run")
    for text in ("before", "x" * 2_000, "after"):
        shipper.keep(logged(text))
    await shipper.send()
    before, long, after = (line.message for line in memory.logs)
    assert (before, len(long), after) == ("before", 100, "after")
    assert long.endswith("xx ... (2,000 characters)")


async def test_a_record_of_which_no_line_can_be_made_harms_nobody(memory, caplog, capsys):
    class Odd:
        def __eq__(self, other):
            raise Panic

        __hash__ = None

    shipper = LogShipper(memory, "run")
    with shipper.listening():
        for attribute, value in [
            ("created", float("nan")),
            ("name", None),
            ("levelno", "INFO"),
            ("flow_run_id", Odd()),  # which is no line of this run, then
        ]:
            record = logged("odd")
            setattr(record, attribute, value)
            heard(record)
        heard(logged("a line"))
    await shipper.send()
    assert [line.message for line in memory.logs] == ["a line"]
    shipper.conclude()
    assert "3 log lines of flow run run were dropped" in caplog.text
    assert capsys.readouterr().err.count("--- Logging error ---") == 3


def heard(record, logger=unheard):
    """Let the handlers of a logger hear a line, and no others."""
    for handler in logger.handlers:
        handler.handle(record)


async def test_each_of_several_runs_hears_its_own_lines_also_after_logging_was_set_up_anew(memory):
    mine, also_mine, others = (LogShipper(memory, run) for run in ("run", "run", "another"))
    logger = logging.getLogger("flowloop")
    before = list(logger.handlers)
    with mine.listening():
        heard(logged("first"), logger)
        logger.handlers.clear()  # as logging.config does it
        with others.listening(), also_mine.listening():
            heard(logged("second"), logger)
        heard(logged("third"), logger)
    assert logger.handlers == [handler for handler in before if handler in logger.handlers]
    logger.handlers[:] = before
    lines = []
    for shipper in (mine, also_mine, others):
        memory.logs.clear()
        await shipper.send()
        lines.append([line.message for line in memory.logs])
    assert lines == [["first", "second", "third"], ["second"], []]


async def test_a_line_that_is_slow_to_write_out_holds_nobody_up(memory):
    begun, ends = threading.Event(), threading.Event()

    class Slow:
        def __str__(self):
            begun.set()
            assert ends.wait(60)
            return "slow"

    shipper = LogShipper(memory, "run")
    writing = threading.Thread(target=shipper.keep, args=(logged("%s", Slow()),))
    writing.start()
    assert begun.wait(60)
    shipper.keep(logged("quick"))
    await shipper.send()
    ends.set()
    writing.join()
    await shipper.send()
    assert [line.message for line in memory.logs] == ["quick", "slow"]


@pytest.mark.usefixtures("info_level")
async def test_odd_lines_harm_no_body_that_has_secrets_either(memory, settings, monkeypatch):
    monkeypatch.setattr(logging.getLogger("flowloop"), "propagate", False)  # pytest's own handler raises

    @task
    async def talk():
        hide("swordfish")
        context.logger.info(Unshowable())
        context.logger.info("%s", Panicking())
        context.logger.info("the %s", "swordfish", extra=None)
        context.logger.error("failed", exc_info=(ValueError, "swordfish", None))
        return "said"

    with Flow("talk") as flow:
        talked = talk()
    state = await CloudFlowRunner(flow, backend=memory, settings=settings).run()
    assert state.result[talked].result == "said"
    lines = [line.message for line in memory.logs]
    assert [line[:13] for line in lines] == ["<Unshowable> ", "%s <tuple> (t", "the ***", "failed None ("]
    assert "swordfish" not in "".join(lines)


async def test_a_level_of_ones_own_is_stored_as_the_level_below(memory):
    shipper = LogShipper(memory, "run")
    for level in (5, 15, 25, 35, 45, 99):
        shipper.keep(logged("line", level=level))
    await shipper.send()
    assert [line.level for line in memory.logs] == ["DEBUG", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


async def test_a_line_that_the_backend_refuses_is_dropped_alone(memory, caplog):
    backend = FaultyBackend(memory)
    refused = lambda sent: any(line.message == "line 7" for line in sent["records"])  # noqa: E731
    backend.fail("write_run_logs", BackendRejected("too large"), times=None, where=refused)
    shipper = LogShipper(backend, "run")
    for n in range(10):
        shipper.keep(logged("line %s", n))
    await shipper.send()
    assert [line.message for line in memory.logs] == [f"line {n}" for n in range(10) if n != 7]
    shipper.conclude()
    assert "1 log lines of flow run run were dropped" in caplog.text


@pytest.mark.parametrize("level", [logging.NOTSET, logging.WARNING])
async def test_info_lines_are_stored_where_nobody_has_set_up_logging(memory, settings, caplog, level):
    """A level that the application gave to flowloop's logger stands; without one, its own loggers' do not matter."""

    @task
    async def talk():
        assert context.logger.isEnabledFor(logging.INFO) is (level == logging.NOTSET)
        context.logger.debug("a detail")
        context.logger.info("a line")
        context.logger.warning("a warning")

    with Flow("talk") as flow:
        flow.add_task(talk)
    root, own = logging.getLogger(), logging.getLogger("flowloop")
    before = root.level, own.level
    root.setLevel("WARNING")
    own.setLevel(level)
    try:
        await CloudFlowRunner(flow, backend=memory, settings=settings).run()
    finally:
        root.setLevel(before[0])
        own.setLevel(before[1])
    assert [line.message for line in memory.logs] == ["a line", "a warning"][level == logging.WARNING :]
    assert caplog.messages == ["a warning"], "what the application hears stays as it was"
    assert caplog.records[0].funcName == "talk"


# -- the net around what helps a run ---------------------------------------------------------------------


class Odd(BaseException):
    """As the panic of an extension is one."""


@pytest.mark.parametrize("error", [ValueError("odd"), Odd("odd"), FAIL("odd"), asyncio.CancelledError("odd")])
@pytest.mark.parametrize(
    ("method", "helper"),
    [
        ("update_flow_run_heartbeat", "heartbeat"),
        ("get_flow_run_state", "poll"),
        ("watch_flow_run", "listener"),
        ("write_run_logs", "log shipper"),
    ],
)
async def test_what_a_helper_raises_ends_that_helper_and_nothing_else(memory, settings, caplog, method, helper, error):
    @task
    async def talk(n):
        context.logger.warning("line %s", n)
        await anyio.sleep(20)
        return n

    with Flow("talk") as flow:
        last = talk(talk(1))

    class Backend(FaultyBackend):
        def watch_flow_run(self, flow_run_id):
            if method == "watch_flow_run":
                raise error

    backend = Backend(memory)
    if method != "watch_flow_run":
        backend.fail(method, error, times=None)
    settings = msgspec.structs.replace(settings, heartbeat_interval=15, check_cancellation_interval=11)
    state = await CloudFlowRunner(flow, backend=backend, settings=settings).run()
    assert state.is_successful()
    assert state.result[last].result == 1
    warnings = [line for line in caplog.messages if "has ended, and the run goes on" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"the {helper} of flow run")
    assert "odd" in warnings[0]


async def test_a_name_that_is_refused_leaves_the_task_as_it_is(memory, settings, caplog):
    @task(task_run_name="named")
    async def one():
        return 1

    with Flow("named") as flow:
        made = one()
    backend = FaultyBackend(memory)
    backend.fail("set_task_run_name", BackendRejected("no"), times=None)
    state = await CloudFlowRunner(flow, backend=backend, settings=settings).run()
    assert state.result[made].result == 1
    assert "could not be set: no" in caplog.text
