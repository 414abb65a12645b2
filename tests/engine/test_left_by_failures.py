"""What a task is given of runs that did not succeed: the same in the process that continues the flow run."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from flowloop.engine import Flow, FlowRunner, context, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.errors import TaskRunError
from flowloop.engine.results import LocalResult, PrefectResult
from flowloop.engine.serializers import JSONSerializer
from flowloop.engine.settings import Settings
from flowloop.engine.signals import FAIL, SKIP
from flowloop.engine.triggers import all_finished

pytestmark = pytest.mark.virtual_time


class Elaborate(Exception):
    def __init__(self, part: str, why: str) -> None:
        super().__init__(f"{part}: {why}")  # cannot be read again from this one argument
        self.part = part


class Busy(Exception):
    def __init__(self) -> None:
        super().__init__("busy")
        self.lock = anyio.Lock
        self.generator = (n for n in ())


LEFT = {
    "an error": lambda: ValueError("no", 3),
    "a value": lambda: FAIL("no", result={"rows": (1, 2)}),
    "a signal": lambda: FAIL("no"),
    "a skip with a value": lambda: SKIP("no need", result=[7]),
}


def kind(value: object) -> object:
    return (type(value).__name__, value.args) if isinstance(value, BaseException) else value


class Reduced:
    """A reduce over children that fail, which is itself retried when its first process is gone."""

    def __init__(self, left: Any, mapped: bool = True, **options: Any) -> None:
        self.got: list[Any] = []

        @task(**options)
        async def child(n: int) -> int:
            if n:
                raise left()
            return n

        @task(trigger=all_finished, skip_on_upstream_skip=False, max_retries=1, retry_delay=600)
        async def reduce(values: Any) -> None:
            self.got.append([kind(value) for value in (values if mapped else [values])])
            if context.task_run_count == 1:
                raise ConnectionError

        with Flow("reduced") as self.flow:
            reduce(child.map([0, 1, 2]) if mapped else child(1))

    async def run_twice(self, backend: Backend, settings: Settings) -> list[Any]:
        runner = CloudFlowRunner(self.flow, backend=backend, settings=settings)
        assert not (await runner.run()).is_finished()
        await anyio.sleep(600)
        again = CloudFlowRunner(self.flow, backend=backend, settings=settings)
        assert (await again.run(context={"flow_run_id": runner.flow_run_id})).is_finished()
        assert len(self.got) == 2
        return self.got


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
async def test_it_is_the_same_in_the_next_process(backend, settings, left, mapped):
    first, second = await Reduced(left, mapped).run_twice(backend, settings)
    assert second == first
    assert None not in first


async def test_it_is_what_a_run_without_a_backend_gets(settings):
    reduced = Reduced(LEFT["an error"])
    await FlowRunner(reduced.flow).run()
    assert reduced.got == [[0, ("ValueError", ("no", 3)), ("ValueError", ("no", 3))]]


@pytest.mark.parametrize("error", [lambda: Elaborate("gear", "broken"), Busy])
async def test_of_an_error_that_cannot_be_stored_the_text_is_left(backend, settings, error):
    reduced = Reduced(error)
    _, second = await reduced.run_twice(backend, settings)
    assert [name for name, _ in second[1:]] == [TaskRunError.__name__] * 2
    assert type(error()).__name__ in second[1][1][0]


async def test_so_it_is_where_nothing_is_stored_or_the_store_is_gone(backend, settings, tmp_path):
    reduced = Reduced(LEFT["an error"], mapped=False, checkpoint=False)
    _, second = await reduced.run_twice(backend, settings)
    assert second[0][0] == TaskRunError.__name__
    assert "no" in second[0][1][0]


@pytest.mark.parametrize("result", [PrefectResult, lambda: LocalResult(serializer=JSONSerializer())])
async def test_an_error_is_stored_whatever_the_results_of_its_task_are_written_as(backend, settings, result):
    first, second = await Reduced(LEFT["an error"], result=result()).run_twice(backend, settings)
    assert second == first


async def test_nothing_is_stored_where_nobody_is_given_it(backend, settings):
    @task
    async def broken() -> None:
        raise ValueError

    @task
    async def after(value: Any) -> None: ...

    with Flow("plain") as flow:
        failed = broken()
        after(failed)
    state = await CloudFlowRunner(flow, backend=backend, settings=settings).run()
    assert isinstance(state.result[failed].result, ValueError)
    assert state.result[failed]._result.location is None
