"""The run context: values for everybody, and what flowloop keeps to itself, of which a run inside another sees none."""

import pytest

from flowloop.engine import Flow, FlowRunner, TaskRunner, context, task
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.context import building, flow_scope, task_scope
from flowloop.engine.errors import FlowDefinitionError
from flowloop.engine.executors import ProcessExecutor

pytestmark = pytest.mark.virtual_time


def test_it_is_a_mutable_mapping():
    with context(a=1, b=2):
        assert {**context} == {"a": 1, "b": 2} == dict(context.items())
        assert context.pop("a") == 1
        assert "a" not in context
        assert context.pop("a", "none") == "none"
        assert context.setdefault("c", 3) == context.setdefault("c", 4) == 3
        context["d"] = 4
        del context["b"]
        context.update({"e": 5}, f=6)
        assert list(context) == ["c", "d", "e", "f"]
        with pytest.raises(KeyError):
            context["b"]
        with pytest.raises(AttributeError, match="has no 'b' here; it has: c, d, e, f"):
            _ = context.b
    assert not context


async def test_a_task_that_is_not_mapped_has_no_index():
    @task
    def index(x=None):
        return context.map_index, context.get("map_index", "none")

    with Flow("index") as flow:
        one, many = index(), index.map([7, 8])
    state = await FlowRunner(flow).run()
    assert state.result[one].result == (None, None)
    assert state.result[many].result == [(0, 0), (1, 1)]


PRIVATE = [
    "backend",
    "cancellation",
    "continues",
    "known",
    "ownership",
    "place",
    "runner_id",
    "takes_over",
    "took_over",
    "takeover",
    "next_round",
    "runs_again",
    "task_run_info",
]


async def test_what_a_user_names_like_flowloops_own_is_a_value_like_any_other():
    seen = {}

    @task
    def look():
        seen.update(context)
        seen["scope"] = flow_scope.get()
        return 1

    with Flow("forged") as flow:
        made = look()
    given = dict.fromkeys(PRIVATE, "forged")
    state = await FlowRunner(flow).run(context=given)
    assert state.result[made].result == 1
    assert {name: seen[name] for name in PRIVATE} == given
    assert not any(getattr(seen["scope"], name, None) == "forged" for name in PRIVATE)


@pytest.mark.parametrize("name", ["map_index", "task_id", "task_run_id", "task_run_version", "task_slug", "logger"])
@pytest.mark.parametrize("where", ["flow", "task"])
async def test_what_is_said_of_a_task_run_cannot_be_given(name, where, memory, settings):
    with Flow("shadow") as flow:
        one = task(lambda: 1, name="one")()
    given = {"context": {name: "forged"}} if where == "flow" else {"task_contexts": {one: {name: "forged"}}}
    for runner in (FlowRunner(flow), CloudFlowRunner(flow, backend=memory, settings=settings)):
        with pytest.raises(FlowDefinitionError, match=f"the context key '{name}' is set by flowloop itself"):
            await runner.run(**given)


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "not recorded"])
async def test_a_run_inside_another_one_begins_afresh(recorded, memory, settings):
    seen = {}

    @task
    async def look():
        seen["values"], seen["scope"] = {**context}, flow_scope.get()

    with Flow("inner") as inner:
        look()

    @task
    async def outside():
        seen["outer"] = flow_scope.get()
        runner = CloudFlowRunner(inner, backend=memory, settings=settings) if recorded else FlowRunner(inner)
        await runner.run()
        assert flow_scope.get() is seen["outer"]

    with Flow("outer") as outer:
        outside()
    flow_run_id = await create_flow_run(outer, memory, settings=settings)
    runner = CloudFlowRunner(outer, backend=memory, settings=settings)
    state = await runner.run(context={"flow_run_id": flow_run_id, "mine": "given"})
    assert state.is_successful()
    inside, around = seen["scope"], seen["outer"]
    assert inside.runner_id != around.runner_id
    assert inside.slugs == inner.slugs
    assert not inside.took_over
    if not recorded:
        assert (inside.backend, inside.ownership, inside.runner_id, inside.takes_over) == (None, None, None, False)
        assert not seen["values"].keys() & {"flow_id", "flow_run_version", "task_run_id", "running_with_backend"}
        assert seen["values"]["mine"] == "given"
    assert (task_scope.get(), building.get()) == (None, None)


async def test_what_travels_are_values_and_nothing_else():
    with Flow("travels") as flow:
        made = task(lambda: sorted(context), name="look")()
    state = await FlowRunner(flow).run(executor=ProcessExecutor(1), context={"mine": 1, "took_over": True})
    found = set(state.result[made].result)
    assert {"mine", "took_over", "parameters", "task_name", "map_index", "flow_run_id"} <= found
    assert not found & {"cancellation", "executor", "place", "settings", "limits", "watch", "slugs", "clock", "caches"}


async def test_a_run_leaves_its_scopes_with_itself():
    runner = TaskRunner(task(lambda: 1, name="one"))
    await runner.run()
    assert task_scope.get() is None
    assert flow_scope.get().watch is None
