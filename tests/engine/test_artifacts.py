"""What bodies leave for people to look at: recorded with the task run, from wherever they run, and never in the way."""

from __future__ import annotations

import logging
import threading
from typing import Any

import anyio
import pytest

from flowloop.backends import connect
from flowloop.engine import Flow, FlowRunner, Parameter, Settings, context, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.errors import BackendRejected
from flowloop.engine.executors import ProcessExecutor
from flowloop.engine.testing import FaultyBackend


async def left_by(flow: Flow, backend: Backend, settings: Settings, **given: Any) -> list[tuple[str, Any]]:
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    state = await runner.run(**given)
    assert state.is_successful(), state
    assert runner.flow_run_id is not None
    return [(made.kind, made.data) for made in await backend.list_artifacts(runner.flow_run_id)]


@pytest.mark.virtual_time
async def test_each_kind_is_recorded_with_its_task_run(backend: Backend, settings: Settings) -> None:
    @task
    async def reports() -> None:
        context.artifact.markdown("# report")
        context.artifact.link("https://example.org/a", "the page")
        context.artifact.table([{"row": 1, "sum": 2.5}, {"row": 2}])
        context.artifact.table([(1, "x")], columns=["n", "letter"])
        context.artifact.progress(0.25, "rows")

    with Flow("reporting") as flow:
        reports()
    assert await left_by(flow, backend, settings) == [
        ("markdown", {"markdown": "# report"}),
        ("link", {"link": "https://example.org/a", "text": "the page"}),
        ("table", [{"row": 1, "sum": 2.5}, {"row": 2}]),
        ("table", [{"n": 1, "letter": "x"}]),
        ("progress", {"progress": 0.25, "label": "rows"}),
    ]


@pytest.mark.virtual_time
async def test_what_has_a_name_replaces_what_had_it_also_after_that_was_sent(
    backend: Backend, settings: Settings
) -> None:
    @task
    async def moves(n: int) -> None:
        for part in range(5):
            context.artifact.progress(part / 4)
            context.artifact.markdown(f"{n}: {part}", name="newest")
            await anyio.sleep(2)

    with Flow("moving") as flow:
        moves.map([0, 1])
    left = await left_by(flow, backend, settings)
    assert sorted(left, key=str) == [
        ("markdown", {"markdown": "0: 4"}),
        ("markdown", {"markdown": "1: 4"}),
        ("progress", {"progress": 1.0, "label": None}),
        ("progress", {"progress": 1.0, "label": None}),
    ]


@pytest.mark.virtual_time
async def test_what_cannot_be_recorded_is_told_and_fails_nothing(
    backend: Backend, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = FaultyBackend(backend)
    faulty.fail("create_task_run_artifact", BackendRejected("too large"), times=1)

    @task
    async def careless() -> None:
        context.artifact.table([(1, 2)])
        context.artifact.progress(float("nan"))
        context.artifact.markdown("refused")
        context.artifact.table([{"when": context.today, "what": object}])

    with Flow("careless") as flow:
        careless()
    with caplog.at_level(logging.WARNING, "flowloop.artifacts"):
        left = await left_by(flow, faulty, settings)
    assert [kind for kind, _ in left] == ["table"]
    told = [line.getMessage() for line in caplog.records]
    assert len(told) == 3
    assert "its columns are named" in told[0]
    assert "from 0 to 1" in told[1]
    assert "too large" in told[2]


@pytest.mark.virtual_time
async def test_secrets_are_masked_in_it(backend: Backend, settings: Settings) -> None:
    @task
    async def tells(token: str) -> None:
        context.artifact.markdown(f"with {token}")
        context.artifact.table([{token: [token]}])

    with Flow("telling") as flow:
        tells(Parameter("token", secret=True))
    left = await left_by(flow, backend, settings, parameters={"token": "hunter2!"})
    assert left == [("markdown", {"markdown": "with ***"}), ("table", [{"***": ["***"]}])]


async def test_nothing_is_kept_of_a_run_that_is_not_recorded() -> None:
    @task
    def leaves() -> None:
        context.artifact.markdown("# lost")

    with Flow("unrecorded") as flow:
        leaves()
    assert (await FlowRunner(flow).run()).is_successful()


@task
def leaves(n: int) -> str:
    context.artifact.markdown(f"child {n}")
    return threading.current_thread().name


@pytest.mark.parametrize("executor", [None, ProcessExecutor(1)], ids=["thread", "process"])
async def test_it_comes_from_wherever_the_body_runs(
    executor: ProcessExecutor | None, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    with Flow("elsewhere") as flow:
        leaves.map([0, 1])
    async with connect("memory://") as memory:
        left = await left_by(flow, memory, settings, executor=executor)
    assert sorted(left, key=str) == [("markdown", {"markdown": "child 0"}), ("markdown", {"markdown": "child 1"})]
    assert "artifact" not in capfd.readouterr().err
