"""A flow run that is interrupted anywhere is continued from what was recorded."""

import collections
import datetime

import pytest

from flowloop.engine import Flow, FlowRunner, Parameter, context, task, unmapped
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.control import case, merge
from flowloop.engine.results import LocalResult
from flowloop.engine.secrets import Secret
from flowloop.engine.signals import LOOP

from .mortal import MortalBackend, run_until_death

pytestmark = pytest.mark.virtual_time

SECOND = datetime.timedelta(seconds=1)


class Everything:
    """A flow with all that has to survive: parameters, mapping, files, loops, retries, branches, secrets, operators."""

    def __init__(self):
        self.ran = ran = collections.Counter()

        def note():
            """Write down which attempt of which round of which task run this is."""
            key = context.task_slug, -1 if context.map_index is None else context.map_index
            ran[key, context.get("task_loop_count", 1), context.task_run_count] += 1

        @task
        async def numbers(n):
            note()
            return [InAFile(i) for i in range(n)]

        @task
        async def double(item, by):
            note()
            return item.n * by

        @task
        async def plus(n, word):
            note()
            return n + len(word)

        @task
        async def count_up():
            note()
            done = context.get("task_loop_result") or []
            if len(done) == 3:
                return done
            raise LOOP(result=[*done, InAFile(len(done))])

        @task(max_retries=2, retry_delay=SECOND)
        async def flaky():
            note()
            if context.task_run_count < 3:
                raise ValueError("not yet")
            return "at last"

        @task
        async def total_of(values):
            note()
            return sum(values)

        @task
        async def is_large(total):
            note()
            return total > 10

        @task
        async def large(total):
            note()
            return f"large {total}"

        @task
        async def small(total):
            note()
            return f"small {total}"

        @task
        async def report(size, parts, first):
            note()
            rounds, flaky = parts
            return size, [one.n for one in rounds], flaky, first

        with Flow("everything") as self.flow:
            n = Parameter("n", default=3)
            doubled = double.map(numbers(n), unmapped(n + 1))
            more = plus.map(doubled, unmapped(Secret("WORD")))
            total = total_of(more)
            with case(is_large(total), True):
                one = large(total)
            with case(is_large(total), False):
                other = small(total)
            self.last = report(merge(one, other), [count_up(), flaky()], more[0])


EXPECTED = "large 24", [0, 1, 2], "at last", 4


class InAFile:
    """A value that no JSON can carry, so that it is stored in a file."""

    def __init__(self, n):
        self.n = n


async def newest_states(backend, flow_run_id):
    _, task_runs = await backend.get_flow_run_history(flow_run_id)
    return {(run.task_slug, run.map_index): run.states[-1].state for run in task_runs}


async def is_continued(backend, settings, dies_at, recorded):
    """Let the runner of a flow run die in a write and continue the run. Return whether it died before the end."""
    everything = Everything()
    flow_run_id = await create_flow_run(everything.flow, backend, settings=settings)
    mortal = MortalBackend(backend, dies_at, recorded=recorded)
    if not await run_until_death(everything.flow, mortal, flow_run_id, settings=settings):
        return False
    left = await newest_states(backend, flow_run_id)
    before = everything.ran.copy()
    is_over = (await backend.get_flow_run_state(flow_run_id)).is_finished()

    state = await CloudFlowRunner(everything.flow, backend=backend, settings=settings, takeover=True).run(
        context={"flow_run_id": flow_run_id}
    )
    assert state.is_successful(), state.result
    assert (await backend.get_flow_run_state(flow_run_id)).is_successful()
    if is_over:
        assert everything.ran == before
        return True
    assert state.result[everything.last].result == EXPECTED
    again = {key for key, count in everything.ran.items() if key in before and count > before[key]}
    assert {left[key[0]] for key in again} <= {"Running"}, "only what was under way runs again"
    assert set(everything.ran.values()) <= {1, 2}
    assert {slug for (slug, _), _, _ in everything.ran} == {
        *("numbers-1", "double-1", "plus-1", "count_up-1", "flaky-1"),
        *("total_of-1", "is_large-1", "is_large-2", "large-1", "report-1"),
    }
    return True


@pytest.mark.parametrize("recorded", [False, True], ids=["not recorded", "recorded"])
async def test_a_run_that_dies_in_any_write_is_continued(memory, settings, recorded, monkeypatch):
    monkeypatch.setenv("FLOWLOOP_SECRET__WORD", "four")
    dies_at = 0
    while await is_continued(memory, settings, dies_at, recorded):
        dies_at += 1
    assert dies_at > 50


@pytest.mark.parametrize("dies_at", range(3, 60, 8))
async def test_a_run_on_a_database_is_continued(database, settings, dies_at, monkeypatch):
    monkeypatch.setenv("FLOWLOOP_SECRET__WORD", "four")
    assert await is_continued(database, settings, dies_at, recorded=dies_at % 2 == 0)


@pytest.mark.parametrize("value", [None, [1, 2]])
@pytest.mark.parametrize("checkpoint", [None, False])
@pytest.mark.parametrize("is_recorded", [True, False])
async def test_what_a_round_leaves_is_stored_where_results_are(
    memory, settings, tmp_path, is_recorded, checkpoint, value
):
    attempts = []

    async def rounds():
        if context.get("task_loop_count", 1) == 1:
            raise LOOP(result=value)
        attempts.append(context.task_loop_result)
        if len(attempts) == 1:
            raise ValueError("once")

    folder = tmp_path / "results"
    options = {"max_retries": 1, "retry_delay": datetime.timedelta(seconds=1)}
    with Flow("rounds", result=LocalResult(folder)) as flow:
        task(rounds, checkpoint=checkpoint, **options)()
    runner = CloudFlowRunner(flow, backend=memory, settings=settings) if is_recorded else FlowRunner(flow)
    assert (await runner.run()).is_successful()
    assert attempts == [value, value]
    is_stored = is_recorded and checkpoint is None and value is not None
    assert any(path.is_file() for path in folder.rglob("*")) == is_stored
