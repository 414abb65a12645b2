# pyright: reportUnnecessaryTypeIgnoreComment=true
"""The public API as a type checker sees it.

This file is never run: mypy and pyright read it (``tests/test_typing.py``). What has to be a type error carries an
``ignore`` comment, and both checkers report an ``ignore`` that ignores nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Coroutine
from typing import Any, assert_type

from flowloop import (
    Flow,
    FlowRunner,
    FunctionTask,
    Limits,
    Parameter,
    Rate,
    Settings,
    State,
    Task,
    TaskRunner,
    apply_map,
    case,
    context,
    flatten,
    mapped,
    merge,
    run,
    tags,
    task,
    unmapped,
)
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner, CloudTaskRunner
from flowloop.engine.edge import Edge
from flowloop.engine.executors import LocalExecutor
from flowloop.engine.result import Result
from flowloop.engine.results import LocalResult, PrefectResult
from flowloop.engine.signals import ENDRUN
from flowloop.engine.state import Failed, Mapped, Retrying, Success
from flowloop.engine.testing import FaultyBackend, RecordingBackend, VirtualLoop
from flowloop.engine.testing import run as run_virtually
from flowloop.engine.watch import Progress, RunEvent

# -- tasks keep their parameters and what they return ------------------------------------------------------


@task
async def fetch(url: str, tries: int = 3) -> bytes:
    return b""


@task(max_retries=3, retry_delay=datetime.timedelta(seconds=10), tags={"slow"})
def parse(page: bytes) -> dict[str, int]:
    return {}


@task(nout=2)
async def split(text: str) -> tuple[str, str]:
    return text, text


class Adds(Task[[int], int]):
    """A task as a class."""

    def __init__(self, amount: int, **kwargs: Any) -> None:
        self.amount = amount
        super().__init__(**kwargs)

    async def run(self, x: int) -> int:
        return x + self.amount


decorated: FunctionTask[..., dict[str, int]] = parse
both_ways: FunctionTask[..., bytes, Coroutine[object, None, bytes]] = fetch
any_task: Task = parse  # without arguments: a task that takes and returns anything
any_function: FunctionTask = fetch

# the body alone, as it is called
assert_type(parse.run(b""), dict[str, int])
parse.run("text")  # type: ignore[arg-type]


async def alone() -> None:
    assert_type(await fetch.run("url"), bytes)


with Flow("typed") as flow:
    # a call returns what the task returns: it is wired on as if it were that
    page = fetch("url", tries=2)
    assert_type(page, bytes)
    counts = parse(page)
    assert_type(counts, dict[str, int])
    number = Adds(5)(1)
    assert_type(number, int)
    left, right = split("text")
    assert_type(left, str)

    # everything else a call takes
    fetch("url", upstream_tasks=[counts])
    fetch("url", task_args={"name": "another"}, flow=flow)
    parse(mapped([b"1", b"2"]), mapped=True)

    # wrong wiring is a type error
    fetch(1)  # type: ignore[call-overload]
    fetch()  # type: ignore[call-overload]
    fetch("url", tires=2)  # type: ignore[call-overload]
    parse("text")  # type: ignore[call-overload]
    parse(number)  # type: ignore[call-overload]

    # mapping
    pages = fetch.map(["a", "b"], tries=unmapped(2))
    assert_type(pages, list[bytes])
    assert_type(parse.map(pages), list[dict[str, int]])
    fetch.map(flatten([["a"], ["b"]]))

    # parameters, branches, and the rest
    limit = Parameter("limit", default=10, type=int)
    assert_type(limit, Parameter[int])
    names = Parameter("names", type=list[str])
    assert_type(names, Parameter[list[str]])
    assert_type(Parameter("anything"), Parameter[Any])
    maybe: Parameter[int | None] = Parameter("maybe", type=int | None)
    Adds(1)(limit)
    with case(number, 5):
        one = fetch("one")
    with tags("nightly"):
        two = fetch("two")
    merge(one, two)
    apply_map(lambda url: parse(fetch(url)), ["a", "b"])

# the task itself, and its body
copied: FunctionTask[..., bytes] = fetch.copy()
fetch.bind("url", flow=flow)
fetch.set_upstream(parse, flow=flow)
fetch.name = "another"
fetch.name = 5  # type: ignore[assignment]
task(5)  # type: ignore[call-overload]


# -- running ---------------------------------------------------------------------------------------------


async def running(backend: Backend) -> None:
    runner = FlowRunner(
        flow,
        settings=Settings(inline_retry_limit=10),
        limits=Limits(concurrency=5, tags={"slow": 1}, rate=Rate(10, 1.0)),
        fail_fast=True,
        release_results=True,
    )
    state = await runner.run(
        parameters={"limit": 5}, executor=LocalExecutor(threads=4), context={"mine": 1}, task_states={fetch: Success()}
    )
    assert_type(state, State)
    assert_type(state.is_successful(), bool)
    assert_type(state.result, Any)
    # the state of a task knows the type of its result
    assert_type(state[fetch], State[bytes])
    assert_type(state[page].result, bytes)
    assert_type(state[pages].result, list[bytes])
    assert_type(state[limit].result, int)
    assert_type(state["fetch-1"], State[Any])
    assert_type(state["fetch-1", 3], State[Any])
    assert_type(await state[number].load_result(), State[int])
    assert_type(runner.progress(), Progress)
    async for event in runner.events():
        assert_type(event, RunEvent)
        assert_type(event.state, State)
    runner.cancel("user")
    runner.cancel("boredom")  # type: ignore[arg-type]
    assert_type(await flow.run(limit=5), State)
    assert_type(flow.run_sync({"limit": 5}), State)
    assert_type(run(flow), State)
    assert_type(await CloudFlowRunner(flow, backend=backend).run(), State)
    FlowRunner(fetch)  # type: ignore[arg-type]


# -- extending -------------------------------------------------------------------------------------------


def typed_handler(owner: Task, old: State, new: State[int]) -> State[int]:
    assert_type(new.result, int)
    return new


def handler(owner: Task[..., Any], old: State, new: State) -> State | None:
    return Failed("no", result=ValueError()) if isinstance(new, Retrying) else None


async def async_handler(owner: Flow, old: State, new: State) -> State:
    if isinstance(new, Mapped):
        assert_type(new.n_map_states, int)
    return new


async def trigger(states: dict[Edge, State]) -> bool:
    return all(state.is_finished() for state in states.values())


handled = task(lambda: 1, state_handlers=[handler], trigger=trigger, name="handled")
Flow("handled", state_handlers=[async_handler], on_failure=lambda flow, state: None)


class OwnRunner(TaskRunner):
    async def check_task_trigger(self, state: State, upstream_states: dict[Edge, State]) -> State:
        if not upstream_states:
            raise ENDRUN(Success("nothing to wait for"))
        return await super().check_task_trigger(state, upstream_states)


class OwnCloudRunner(CloudTaskRunner):
    async def set_task_run_name(self, task_inputs: dict[str, Result]) -> None:
        await super().set_task_run_name({name: result for name, result in task_inputs.items() if name != "secret"})


FlowRunner(flow, OwnRunner, state_handlers=[async_handler])


async def results() -> None:
    stored = await LocalResult("folder", location="{name}.pickle").write({"a": 1}, name="b")
    assert_type(stored, LocalResult)
    assert_type(await stored.read("b.pickle"), LocalResult)
    assert_type(await PrefectResult().exists("1"), bool)


def contexts() -> None:
    with context(mine=1, config={"a": {"b": 1}}):
        value: int = context.mine
        other: str = context["other"]
        print(value, other, context.get("none", 0))


# -- testing ---------------------------------------------------------------------------------------------


async def testing(backend: Backend) -> None:
    recording = RecordingBackend(backend)
    wrapped: Backend = FaultyBackend(recording)
    await wrapped.get_flow_run_info("id")
    await recording.get_flow_run_info(5)  # type: ignore[arg-type]
    assert_type(await recording.create_flow_run("id"), str)
    states = recording.watch_flow_run("id")
    if states is not None:
        async with states as stream:
            assert_type(stream, AsyncIterator[State])
    VirtualLoop(patience=1.0)


assert_type(run_virtually(flow.run()), State)
