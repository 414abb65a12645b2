"""Flow.run: rounds, schedules, pauses, caches, and running from a script."""

import asyncio
import datetime
import itertools
import os
import pty
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import anyio
import pytest

from flowloop.engine import Flow, FlowRunner, Parameter, context, run, task
from flowloop.engine.errors import FlowDefinitionError, FlowloopError
from flowloop.engine.result import Result
from flowloop.engine.schedules import DatesClock, IntervalSchedule, Schedule
from flowloop.engine.signals import PAUSE, RETRY
from flowloop.engine.state import (
    Cached,
    Cancelled,
    Failed,
    Mapped,
    Paused,
    Pending,
    Resume,
    Retrying,
    Running,
    Scheduled,
    Submitted,
    Success,
)
from flowloop.engine.testing import run as run_virtually
from flowloop.engine.triggers import manual_only

DAY = datetime.timedelta(days=1)
HOUR = datetime.timedelta(hours=1)


def failing(times, *, delay=DAY):
    """A task that fails as often as it is told, and writes down when it ran."""
    ran = []

    @task(max_retries=times, retry_delay=delay)
    async def flaky():
        ran.append(asyncio.get_running_loop().time())
        if len(ran) <= times:
            raise ValueError(f"failure {len(ran)}")
        return len(ran)

    return flaky, ran


def test_a_retry_days_later_is_waited_for():
    flaky, ran = failing(3)
    with Flow("patient") as flow:
        made = flaky()
    state = run_virtually(flow.run())
    assert state.is_successful()
    assert state.result[made].result == 4
    assert [b - a for a, b in itertools.pairwise(ran)] == pytest.approx([86400.0] * 3, abs=0.1)


def test_the_earliest_of_several_waits_comes_first():
    order = []

    def later(name, delay):
        @task(name=name, max_retries=1, retry_delay=delay)
        async def body():
            order.append(name)
            if order.count(name) == 1:
                raise ValueError(name)

        return body

    with Flow("two") as flow:
        later("slow", 2 * DAY)()
        later("quick", HOUR)()
    assert run_virtually(flow.run()).is_successful()
    assert order == ["slow", "quick", "quick", "slow"]


def test_mapped_children_that_retry_are_waited_for_and_others_not_run_again():
    ran = []

    @task(max_retries=1, retry_delay=HOUR)
    async def work(n):
        ran.append(n)
        if n == 2 and ran.count(2) == 1:
            raise ValueError(n)
        return n * 10

    with Flow("mapped") as flow:
        mapped = work.map([1, 2, 3])
    state = run_virtually(flow.run())
    assert state.is_successful()
    assert state.result[mapped].result == [10, 20, 30]
    assert ran == [1, 2, 3, 2]


def test_finished_tasks_do_not_run_again_in_a_later_round():
    flaky, _ = failing(1)
    ran = []

    @task
    async def once():
        ran.append(1)

    with Flow("rounds") as flow:
        flaky(upstream_tasks=[once()])
    assert run_virtually(flow.run()).is_successful()
    assert ran == [1]


def test_all_rounds_are_one_flow_run():
    flaky, _ = failing(1)
    ids = []

    def seen(task, old, new):
        ids.append(context.flow_run_id)

    with Flow("one", state_handlers=[lambda flow, old, new: ids.append(context.flow_run_id)]) as flow:
        flaky(task_args={"state_handlers": [seen]})
    run_virtually(flow.run())
    assert len(ids) > 4
    assert len(set(ids)) == 1


def test_return_tasks_choose_from_the_last_round():
    flaky, _ = failing(1)

    @task
    async def other():
        return 1

    with Flow("chosen") as flow:
        first, second = flaky(), other()
    state = run_virtually(flow.run(return_tasks=[second]))
    assert state.is_successful()
    assert set(state.result) == {second}
    assert first not in state.result


def test_a_state_in_the_future_is_waited_for():
    @task
    async def when():
        return asyncio.get_running_loop().time()

    with Flow("later") as flow:
        made = when()

    async def main():
        begin = asyncio.get_running_loop().time()
        from flowloop.engine.context import now

        state = await flow.run(state=Scheduled(start_time=now() + DAY))
        return state.result[made].result - begin

    assert run_virtually(main()) == pytest.approx(86400, abs=0.1)


# -- schedules -----------------------------------------------------------------------------------------


def scheduled_flow(clocks, seen):
    @task
    async def note(x):
        seen.append((x, context.scheduled_start_time))

    with Flow("scheduled", schedule=Schedule(clocks)) as flow:
        note(Parameter("x", default=0))
    return flow


def test_a_flow_runs_at_each_time_of_its_schedule_with_the_parameters_of_the_clock():
    seen = []

    async def main():
        from flowloop.engine.context import now

        first, second = now() + DAY, now() + 2 * DAY
        flow = scheduled_flow(
            [DatesClock([first], parameter_defaults={"x": 1}), DatesClock([second], parameter_defaults={"x": 2})], seen
        )
        return [first, second], await flow.run()

    times, state = run_virtually(main())
    assert state.is_successful()
    assert seen == [(1, times[0]), (2, times[1])]


def test_the_parameters_of_the_clock_win_over_given_ones():
    seen = []

    async def main():
        from flowloop.engine.context import now

        flow = scheduled_flow([DatesClock([now() + DAY], parameter_defaults={"x": 1})], seen)
        await flow.run(x=7)

    run_virtually(main())
    assert [x for x, _ in seen] == [1]


def test_every_scheduled_run_is_a_run_of_its_own():
    ids = []

    @task
    async def note():
        ids.append(context.flow_run_id)

    async def main():
        from flowloop.engine.context import now

        with Flow("own", schedule=Schedule([DatesClock([now() + DAY, now() + 2 * DAY])])) as flow:
            note()
        await flow.run()

    run_virtually(main())
    assert len(set(ids)) == len(ids) == 2


def test_a_run_that_takes_longer_than_the_interval_misses_times_but_none_twice():
    begun = []

    @task
    async def slow():
        begun.append(context.scheduled_start_time)
        await anyio.sleep(90 * 60)

    async def main():
        from flowloop.engine.context import now

        schedule = IntervalSchedule(interval=HOUR, start_date=now(), end_date=now() + 5 * HOUR)
        with Flow("slow", schedule=schedule) as flow:
            slow()
        await flow.run()

    run_virtually(main())
    assert [b - a for a, b in itertools.pairwise(begun)] == [2 * HOUR, 2 * HOUR]


def test_a_schedule_without_a_time_left_is_refused():
    flow = scheduled_flow([DatesClock([datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)])], [])
    with pytest.raises(FlowDefinitionError, match="'scheduled': its schedule has no time left"):
        run_virtually(flow.run())


def test_run_on_schedule_false_runs_at_once():
    seen = []
    flow = scheduled_flow([DatesClock([datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)])], seen)
    assert run_virtually(flow.run(run_on_schedule=False)).is_successful()
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"run_on_schedule": True}, "'plain' has no schedule"),
        ({"parameters": {"y": 1}}, "has no parameter 'y'"),
        ({"y": 1}, "has no parameter 'y'"),
        ({}, "needs the parameter 'x'"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_begins(arguments, message):
    with Flow("plain") as flow:
        Parameter("x")
    with pytest.raises(FlowDefinitionError, match=message):
        run_virtually(flow.run(**arguments))


def test_states_do_not_go_with_a_schedule():
    flow = scheduled_flow([DatesClock([datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)])], [])
    with pytest.raises(FlowDefinitionError, match="run_on_schedule=False"):
        run_virtually(flow.run(state=Scheduled()))


async def test_a_flow_does_not_run_while_a_block_is_open():
    with Flow("open") as flow, pytest.raises(FlowDefinitionError, match="leave the block"):
        await flow.run()


# -- caches --------------------------------------------------------------------------------------------


def cached_flow(ran, days, *, cache_for, **task_args):
    @task(cache_for=cache_for, **task_args)
    async def dear():
        ran.append(1)
        return len(ran)

    async def main():
        from flowloop.engine.context import now

        with Flow("cached", schedule=Schedule([DatesClock([now() + n * DAY for n in range(1, days + 1)])])) as flow:
            made = dear()
        state = await flow.run()
        return state.result[made]

    return main


def test_a_cached_result_serves_later_scheduled_runs_until_it_expires():
    ran = []
    last = run_virtually(cached_flow(ran, 5, cache_for=2.5 * DAY)())
    assert len(ran) == 2  # on the first day, and on the fourth
    assert isinstance(last, Cached)
    assert last.result == 2


def test_tasks_with_one_cache_key_share_their_results():
    ran = []

    def dear(name):
        @task(name=name, cache_for=DAY, cache_key="shared", trigger=lambda up: True)
        async def body():
            ran.append(name)
            return name

        return body

    flaky, _ = failing(1, delay=HOUR)
    with Flow("shared") as flow:
        first = dear("first")()
        second = dear("second")(upstream_tasks=[flaky(upstream_tasks=[first])])
    state = run_virtually(flow.run())
    assert ran == ["first"]
    assert state.result[second].result == "first"


def test_a_cached_result_serves_the_next_run_in_the_same_process_until_it_expires():
    ran = []

    @task(cache_for=2 * DAY)
    async def dear():
        ran.append(1)
        return len(ran)

    async def main():
        with Flow("again") as flow:
            made = dear()
        found = []
        for _ in range(4):
            found.append((await flow.run()).result[made].result)
            await anyio.sleep(DAY.total_seconds() - 1)
        return found, (await flow.copy().run()).result[made].result

    assert run_virtually(main()) == ([1, 1, 1, 2], 2)


def test_the_caches_of_a_block_of_the_context_are_those_of_all_runs_in_it():
    ran = []

    def dear():
        @task(cache_for=DAY, cache_key="shared")
        async def body():
            ran.append(1)

        return body

    async def main():
        with context(caches={}):
            for _ in range(2):
                with Flow("one of two") as flow:
                    dear()()
                await flow.run()

    run_virtually(main())
    assert ran == [1]


# -- states to begin with ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Pending, Running, Resume, Submitted])
def test_a_given_state_that_waits_for_nothing_goes_on_at_once(kind):
    with Flow("given") as flow:
        made = task(lambda: 5, name="five")()

    async def given():
        state = Submitted(state=Pending("go")) if kind is Submitted else kind("go")  # its time is that of the run
        return await flow.run(state=state)

    final = run_virtually(given())
    assert final.is_successful()
    assert final.result[made].result == 5


@pytest.mark.parametrize("kind", [Success, Failed, Cancelled])
def test_a_given_final_state_comes_back_with_tasks_that_were_not_run(kind):
    with Flow("over") as flow:
        one, two = (task(lambda: 1 / 0, name=name)() for name in ("one", "two"))
    final = run_virtually(flow.run(state=kind("over")))
    assert type(final) is kind
    assert {made: type(state) for made, state in final.result.items()} == {one: Pending, two: Pending}
    assert list(run_virtually(flow.run(state=kind(), return_tasks=[two])).result) == [two]
    given = {one: Success(result=5)}
    assert run_virtually(flow.run(state=kind("over", result=given))).result == given


def test_a_run_has_the_name_that_it_is_given():
    with Flow("named") as flow:
        made = task(lambda: context.flow_run_name, name="name")()
    assert run_virtually(flow.run(flow_run_name="tuesday")).result[made].result == "tuesday"


def test_the_kept_results_do_not_pile_up():
    sizes = []

    @task(cache_for=365 * DAY)
    async def dear():
        return 1

    @task
    async def look():
        sizes.append({key: len(kept) for key, kept in context.caches.items()})

    async def main():
        from flowloop.engine.context import now

        with Flow("cached", schedule=Schedule([DatesClock([now() + n * DAY for n in range(1, 6)])])) as flow:
            look(upstream_tasks=[dear()])
        await flow.run()

    run_virtually(main())
    assert sizes == [{}, *[{"dear": 1}] * 4]


def test_given_caches_are_used_and_not_changed():
    ran = []

    @task(cache_for=DAY)
    async def dear():
        ran.append(1)

    with Flow("given") as flow:
        made = dear()
    given = {"dear": [Cached(result=5)]}
    state = run_virtually(flow.run(context={"caches": given}))
    assert ran == []
    assert state.result[made].result == 5
    assert [len(kept) for kept in given.values()] == [1]


# -- pauses --------------------------------------------------------------------------------------------


def paused_flow():
    @task(trigger=manual_only)
    async def gate():
        return "through"

    with Flow("paused") as flow:
        made = gate()
    return flow, made


def test_a_paused_task_goes_on_when_somebody_says_so():
    flow, made = paused_flow()
    asked = []

    def on_paused(paused, child, state):
        asked.append((paused, child, type(state)))
        return True

    state = run_virtually(flow.run(on_paused=on_paused))
    assert state.result[made].result == "through"
    assert asked == [(made, -1, Paused)]


def test_the_answer_may_be_awaited():
    flow, _ = paused_flow()

    async def on_paused(paused, child, state):
        await anyio.sleep(86400)
        return True

    assert run_virtually(flow.run(on_paused=on_paused)).is_successful()


def test_a_run_that_stays_paused_comes_back_unfinished():
    flow, made = paused_flow()
    state = run_virtually(flow.run(on_paused=lambda *_: False))
    assert not state.is_finished()
    assert isinstance(state.result[made], Paused)


def test_without_a_terminal_nobody_is_asked(monkeypatch):
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
    flow, made = paused_flow()
    state = run_virtually(flow.run())
    assert isinstance(state.result[made], Paused)
    sys.stdin.close()


def test_paused_children_are_asked_about_one_by_one():
    @task
    async def work(n):
        if n % 2 and not context.get("resume"):
            raise PAUSE(f"{n} waits")
        return n

    with Flow("children") as flow:
        mapped = work.map([1, 2, 3])
    asked = []

    def on_paused(paused, child, state):
        asked.append((paused.name, child, state.message))
        return child == 0

    state = run_virtually(flow.run(on_paused=on_paused))
    assert asked[:2] == [("work", 0, "1 waits"), ("work", 2, "3 waits")]
    children = state.result[mapped].map_states
    assert [type(child) for child in children] == [Success, Success, Paused]


def test_nobody_is_asked_while_something_still_goes_on_by_itself():
    flaky, ran = failing(1)
    asked = []

    @task(trigger=manual_only)
    async def gate():
        pass

    with Flow("both") as flow:
        flaky()
        gate()

    def on_paused(*_):
        asked.append(len(ran))
        return True

    assert run_virtually(flow.run(on_paused=on_paused)).is_successful()
    assert asked == [2]


def test_a_pause_with_an_end_goes_on_by_itself():
    @task
    async def gate():
        if not context.get("resume"):
            from flowloop.engine.context import now

            raise PAUSE("for a day", start_time=now() + DAY)

    with Flow("timed") as flow:
        gate()
    assert run_virtually(flow.run(on_paused=lambda *_: pytest.fail("nobody is to be asked"))).is_successful()


def test_a_flow_whose_handler_pauses_it_can_be_resumed():
    def handler(flow, old, new):
        if new.is_running() and not isinstance(old, Resume):
            raise PAUSE("before it begins")
        return new

    with Flow("whole", state_handlers=[handler]) as flow:
        task(lambda: 1, name="one")()
    asked = []

    def on_paused(paused, child, state):
        asked.append(paused)
        return True

    assert run_virtually(flow.run(on_paused=on_paused)).is_successful()
    assert asked == [None]


# -- stopping ------------------------------------------------------------------------------------------


def test_a_run_cancelled_while_it_waits_ends_in_final_states():
    flaky, _ = failing(1)
    changes = []

    async def work(n):
        if n:
            raise RETRY(start_time=datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))

    with Flow("cut", state_handlers=[lambda flow, old, new: changes.append(new)]) as flow:
        made = flaky(task_args={"state_handlers": [lambda t, old, new: changes.append(new)]})
        task(work, state_handlers=[lambda t, old, new: changes.append(new)]).map([0, 1])

    async def main():
        running = asyncio.create_task(flow.run())
        await anyio.sleep(3600)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run_virtually(main())
    final = changes[-1]
    assert isinstance(final, Cancelled)
    assert final.context["cause"] == "shutdown"
    assert isinstance(final.result[made], Cancelled)
    assert sum(isinstance(change, Cancelled) for change in changes) == 3  # two tasks, and the flow
    (mapped,) = [one for one in final.result.values() if isinstance(one, Mapped)]
    assert all(child.is_finished() for child in mapped.map_states)
    assert any(isinstance(change, Retrying) for change in changes)


def test_a_schedule_that_is_waited_for_can_be_cancelled_with_nothing_begun():
    seen = []

    async def main():
        from flowloop.engine.context import now

        flow = scheduled_flow([DatesClock([now() + DAY])], seen)
        with anyio.move_on_after(3600) as scope:
            await flow.run()
        assert scope.cancelled_caught

    run_virtually(main())
    assert seen == []


def test_a_runner_cancelled_before_it_begins_ends_at_once():
    ran = []
    with Flow("early") as flow:
        task(lambda: ran.append(1), name="one")()

    async def main():
        runner = FlowRunner(flow)
        runner.cancel("user")
        first = await runner.run()
        return first, await runner.run()

    first, second = run_virtually(main())
    assert isinstance(first, Cancelled)
    assert second.is_successful()
    assert ran == [1]


# -- from a script -------------------------------------------------------------------------------------


def test_run_is_for_scripts():
    @task
    async def loop_of():
        return type(asyncio.get_running_loop()).__module__

    with Flow("script") as flow:
        made = loop_of()
    assert run(flow).result[made].result.startswith("uvloop")
    assert flow.run_sync().is_successful()


async def test_inside_a_loop_the_error_says_what_to_await():
    with Flow("inside") as flow:
        task(lambda: 1, name="one")()
    with pytest.raises(FlowloopError, match=r"`await flow\.run\(\.\.\.\)`"):
        flow.run_sync()
    with pytest.raises(FlowloopError, match=r"`await flow\.run\(\.\.\.\)`"):
        run(flow)


@contextmanager
def script_that_runs(script):
    """Run a script in a process of its own, which is gone after the block whatever happens in it."""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


INTERRUPTED = """
    import sys
    from flowloop.engine import Flow, run, task

    def told(what):
        def handler(it, old, new):
            print(what, type(new).__name__, new.context.get("cause"), flush=True)
        return handler

    @task(state_handlers=[told("task")])
    async def sleeps():
        import anyio
        {body}

    with Flow("interrupted", state_handlers=[told("flow")]) as flow:
        sleeps()
    {run}
"""


@pytest.mark.parametrize("how", ["run(flow)", "import anyio; anyio.run(flow.run)"])
@pytest.mark.parametrize(
    "body", ["await anyio.sleep(600)", "await anyio.to_thread.run_sync(lambda: 1); await anyio.sleep(600)"]
)
def test_ctrl_c_ends_the_run_with_its_states_written(how, body):
    script = textwrap.dedent(INTERRUPTED).format(body=body, run=how)
    with script_that_runs(script) as child:
        assert [child.stdout.readline() for _ in range(2)] == ["flow Running None\n", "task Running None\n"]
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert out == "task Cancelled shutdown\nflow Cancelled shutdown\n"
    assert "KeyboardInterrupt" in err
    assert "never retrieved" not in err
    assert child.returncode == -signal.SIGINT


@pytest.mark.parametrize("how", ["run(flow)", "import anyio; anyio.run(flow.run)", "asyncio.run(flow.run())"])
def test_an_idle_loop_does_not_sleep_through_a_ctrl_c_that_another_thread_got(how):
    # no system call of the main thread is interrupted by it, as none is that begins in the moment of the signal
    body = """
        def interrupt():
            main = threading.main_thread().ident
            while sys._current_frames()[main].f_code.co_name not in ("select", "run"):
                pass  # until the loop sleeps
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        await anyio.sleep(600)
    """
    indented = textwrap.indent(textwrap.dedent(body), "    ").strip()
    script = "import asyncio, signal, threading\n" + textwrap.dedent(INTERRUPTED).format(body=indented, run=how)
    with script_that_runs(script) as child:
        out, err = child.communicate(timeout=60)
    assert out.splitlines()[2:] == ["task Cancelled shutdown", "flow Cancelled shutdown"]
    assert "KeyboardInterrupt" in err


def test_somebody_at_the_terminal_is_asked():
    script = textwrap.dedent("""
        from flowloop.engine import Flow, run, task
        from flowloop.engine.triggers import manual_only

        @task(trigger=manual_only)
        async def gate():
            return "through"

        with Flow("paused") as flow:
            made = gate()
        print(run(flow).result[made].result, flush=True)
    """)
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    os.close(theirs)
    os.write(ours, b"yes\n")
    out, _ = child.communicate(timeout=60)
    os.close(ours)
    assert b"Task 'gate' is paused (" in out
    assert b"Resume it? [y/N] through" in out.replace(b"\n", b" ").replace(b"  ", b" ") or out.endswith(b"through\n")


def test_results_of_other_rounds_are_not_read_as_results_of_tasks():
    # a flow run that failed for itself carries an error, not states
    def handler(flow, old, new):
        raise ValueError("handler")

    with Flow("broken", state_handlers=[handler]) as flow:
        task(lambda: 1, name="one")()
    state = run_virtually(flow.run())
    assert state.is_failed()
    assert isinstance(state._result, Result)
    assert isinstance(state.result, ValueError)
