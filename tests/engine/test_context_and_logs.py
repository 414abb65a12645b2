"""The run context, each run's own; the log of a run; and what its bodies print."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import pickle
import sys
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

from flowloop.engine import Flow, FlowRunner, context, task
from flowloop.engine.signals import FAIL
from flowloop.engine.state import State
from flowloop.engine.stdout import captured_stdout

pytestmark = pytest.mark.virtual_time


# -- the context ---------------------------------------------------------------------------------------


async def test_a_task_sees_everything_of_its_run() -> None:
    seen: dict[str, Any] = {}

    @task(name="looks", tags={"a"}, slug="the-one")
    async def looks(n: int) -> None:
        seen.update(context.to_dict())

    with Flow("seen") as flow:
        looks.map([5], task_args={"slug": "the-one"})
    await FlowRunner(flow).run(context={"flow_run_id": "run-1", "mine": 7, "secrets": {"s": 1}})
    wanted = {
        "flow_name": "seen",
        "flow_run_id": "run-1",
        "map_index": 0,
        "mine": 7,
        "parameters": {},
        "secrets": {"s": 1},
        "task_full_name": "looks[0]",
        "task_name": "looks",
        "task_run_count": 1,
        "task_slug": "the-one",
        "task_tags": {"a"},
        "today": "2024-01-01",
    }
    assert {name: seen.get(name) for name in wanted} == wanted
    assert {"caches", "checkpointing", "scheduled_start_time", "yesterday_nodash", "tomorrow"} <= seen.keys()


async def test_runs_at_the_same_time_do_not_see_each_others_values() -> None:
    seen: list[Any] = []

    @task
    async def changes(n: int) -> None:
        context.mine = n
        await anyio.sleep(10 - n)
        seen.append((context.flow_name, n, context.mine, context.get("before")))
        context.before = n

    def flow(name: str) -> Flow:
        with Flow(name) as made:
            last = None
            for n in range(3):
                last = changes(n, upstream_tasks=[last] if last is not None and n == 2 else None)
        return made

    before = context.to_dict()
    await asyncio.gather(FlowRunner(flow("one")).run(), FlowRunner(flow("two")).run(context={"mine": "given"}))
    assert sorted(seen) == sorted((name, n, n, None) for name in ("one", "two") for n in range(3))
    assert context.to_dict() == before


async def test_a_thread_sees_the_context_of_its_run_and_keeps_its_changes_to_itself() -> None:
    barrier = threading.Barrier(2)

    @task
    def in_a_thread(n: int) -> Any:
        context.mine = n
        barrier.wait(10)
        return context.task_full_name, context.mine

    with Flow("threads") as flow:
        made: Any = in_a_thread.map([0, 1])
    state = await FlowRunner(flow).run()
    assert state.result[made].result == [("in_a_thread[0]", 0), ("in_a_thread[1]", 1)]
    assert "mine" not in context


async def test_a_thread_of_the_users_own_has_a_context_of_its_own() -> None:
    found: list[bool] = []
    with context(mine=1):
        thread = threading.Thread(target=lambda: found.append("mine" in context))
        thread.start()
        thread.join()
    assert found == [False]


async def test_what_a_handler_changes_is_seen_by_the_body() -> None:
    """A handler is part of its run."""

    def handler(owner: Any, old: State, new: State) -> None:
        if new.is_running():
            context.prepared = True

    @task(state_handlers=[handler])
    async def looks() -> Any:
        return context.get("prepared")

    with Flow("handler") as flow:
        made, other = looks(), task(lambda: context.get("prepared"), name="other")()
    state = await FlowRunner(flow).run()
    assert state.result[made].result is True
    assert state.result[other].result is None


def test_the_context_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(context)


async def test_a_missing_value_is_an_error_that_says_what_there_is() -> None:
    with context(mine=1), pytest.raises(AttributeError, match=r"no 'other' here; it has: .*mine"):
        context.other  # noqa: B018


async def test_leaving_a_context_restores_everything_also_after_an_error() -> None:
    before = context.to_dict()

    def breaks() -> None:
        with context(mine=1, config={"a": {"b": 1}}):
            context.other = 2
            with context(config={"a": {"c": 2}}):
                assert context.config == {"a": {"b": 1, "c": 2}}
            assert context.config == {"a": {"b": 1}}
            raise ValueError

    with pytest.raises(ValueError):
        breaks()
    assert context.to_dict() == before


# -- the log -------------------------------------------------------------------------------------------


def ids(record: Any) -> Any:
    return record.getMessage(), record.flow_name, record.flow_run_id, record.task_name, record.map_index


async def test_the_lines_of_a_task_carry_the_ids_of_its_run(caplog: pytest.LogCaptureFixture) -> None:
    @task
    async def speaks(n: int) -> None:
        context.logger.info("before %s", n)
        await anyio.sleep(5 - n)
        context.logger.warning("after %s", n, extra={"mine": n})

    with Flow("spoken") as flow:
        speaks.map([0, 1])
    with caplog.at_level(logging.INFO, "flowloop"):
        await FlowRunner(flow).run(context={"flow_run_id": "r"})
    records: list[Any] = [record for record in caplog.records if record.name == "flowloop.run"]
    assert sorted(ids(record) for record in records) == [
        (f"{when} {n}", "spoken", "r", f"speaks[{n}]", n) for when in ("after", "before") for n in (0, 1)
    ]
    assert {record.mine for record in records if record.levelno == logging.WARNING} == {0, 1}


async def test_the_lines_of_a_thread_carry_them_too(caplog: pytest.LogCaptureFixture) -> None:
    @task
    def speaks() -> None:
        context.logger.info("from a thread")

    with Flow("threaded") as flow:
        speaks()
    with caplog.at_level(logging.INFO, "flowloop"):
        await FlowRunner(flow).run()
    (record,) = [record for record in caplog.records if record.name == "flowloop.run"]
    assert ids(record)[0::3] == ("from a thread", "speaks")


async def test_the_logger_works_outside_a_run() -> None:
    context.logger.debug("nobody is here")
    assert context.get("logger") is context.logger


async def test_an_unexpected_error_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def breaks(owner: Any, old: State, new: State) -> State:
        raise ZeroDivisionError("in a handler")

    with Flow("breaks") as flow:
        task(lambda: 1, name="one", state_handlers=[breaks])()
    await FlowRunner(flow).run()
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage().startswith("one failed: ZeroDivisionError: in a handler\nTraceback ")
    assert 'raise ZeroDivisionError("in a handler")' in record.getMessage()


# -- what is printed -----------------------------------------------------------------------------------


def printed(caplog: pytest.LogCaptureFixture) -> list[Any]:
    records: list[Any] = [record for record in caplog.records if record.name == "flowloop.run"]
    return [(record.task_name, record.getMessage()) for record in records]


async def test_what_a_task_prints_goes_to_its_log_and_nobody_elses(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async def speaks(name: str) -> None:
        for n in range(3):
            print(name, n)
            await anyio.sleep(1)

    with Flow("printing") as flow:
        task(speaks, name="logged", log_stdout=True)("logged")
        task(speaks, name="also", log_stdout=True)("also")
        task(speaks, name="free")("free")
    with caplog.at_level(logging.INFO, "flowloop"):
        running = asyncio.create_task(FlowRunner(flow).run())
        await anyio.sleep(0.5)
        print("from outside")
        await running
    assert sorted(printed(caplog)) == sorted((name, f"{name} {n}") for name in ("logged", "also") for n in range(3))
    out = capsys.readouterr().out.splitlines()
    assert sorted(out) == sorted(["from outside", *(f"free {n}" for n in range(3))])


async def test_what_a_thread_prints_goes_to_its_log(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    barrier = threading.Barrier(3)

    def speaks(n: int) -> None:
        barrier.wait(10)
        print("thread", n)
        print("and more")
        barrier.wait(10)

    with Flow("printing threads") as flow:
        task(speaks, name="logged", log_stdout=True).map([0, 1])
        task(speaks, name="free")(2)
    with caplog.at_level(logging.INFO, "flowloop"):
        await FlowRunner(flow).run()
    assert sorted(printed(caplog)) == sorted(
        (f"logged[{n}]", text) for n in (0, 1) for text in (f"thread {n}", "and more")
    )
    assert capsys.readouterr().out == "thread 2\nand more\n"


async def test_what_a_child_task_of_the_body_prints_belongs_to_the_body(caplog: pytest.LogCaptureFixture) -> None:
    @task(log_stdout=True)
    async def speaks() -> None:
        async def inner(n: int) -> None:
            print("inner", n)

        async with anyio.create_task_group() as group:
            group.start_soon(inner, 1)
        await anyio.to_thread.run_sync(print, "in a thread")

    with Flow("children") as flow:
        speaks()
    with caplog.at_level(logging.INFO, "flowloop"):
        await FlowRunner(flow).run()
    assert printed(caplog) == [("speaks", "inner 1"), ("speaks", "in a thread")]


async def test_lines_are_put_together_and_the_last_one_needs_no_end(caplog: pytest.LogCaptureFixture) -> None:
    @task(log_stdout=True)
    async def speaks() -> None:
        print("one", end=" ")
        print("line, 100%", end="\n\nand ")
        sys.stdout.writelines(["a last", " one"])
        sys.stdout.flush()

    with Flow("lines") as flow:
        speaks()
    with caplog.at_level(logging.INFO, "flowloop"):
        await FlowRunner(flow).run()
    assert [text for _, text in printed(caplog)] == ["one line, 100%", "and a last one"]


async def test_stdout_is_itself_again_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    real = sys.stdout

    @task(log_stdout=True)
    async def breaks() -> None:
        print("before")
        raise FAIL("after")

    @task(log_stdout=True, timeout=1)
    async def slow() -> None:
        print("waiting")
        await anyio.sleep_forever()

    with Flow("restored") as flow:
        breaks()
        slow()
    with caplog.at_level(logging.INFO, "flowloop"):
        await FlowRunner(flow).run()
    assert sys.stdout is real
    assert sorted(text for _, text in printed(caplog)) == ["before", "waiting"]


async def test_a_redirection_of_the_users_own_still_works() -> None:
    @task(log_stdout=True)
    async def redirects() -> str:
        with contextlib.redirect_stdout(io.StringIO()) as buffer:
            print("mine")
        return buffer.getvalue()

    with Flow("redirected") as flow:
        made = redirects()
    assert (await FlowRunner(flow).run()).result[made].result == "mine\n"


def test_a_capture_inside_another_one_goes_back_to_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "flowloop"), captured_stdout(True):
        print("outer")
        with context(task_full_name="inner"), captured_stdout(True):
            print("inner")
        print("outer again")
    assert [text for _, text in printed(caplog)] == ["outer", "inner", "outer again"]


async def test_what_looks_at_stdout_sees_the_real_one() -> None:
    real = sys.stdout

    @task(log_stdout=True)
    async def looks() -> Any:
        return sys.stdout.encoding, sys.stdout.isatty(), sys.stdout.writable()

    with Flow("looks") as flow:
        made = looks()
    found = (await FlowRunner(flow).run()).result[made].result
    assert found == (real.encoding, real.isatty(), True)
