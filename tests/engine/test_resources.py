"""Resources and secrets, and what a restart does with them."""

import asyncio

import pytest

from flowloop.engine import Flow, FlowRunner, Parameter, context, task, unmapped
from flowloop.engine._run.restart import tasks_to_rerun
from flowloop.engine.control import case
from flowloop.engine.errors import FlowDefinitionError, FlowloopError
from flowloop.engine.resources import ResourceManager, resource_manager
from flowloop.engine.results import SecretResult
from flowloop.engine.secrets import Secret
from flowloop.engine.state import (
    Cached,
    Failed,
    Mapped,
    Pending,
    Retrying,
    Scheduled,
    Skipped,
    Success,
    TriggerFailed,
)
from flowloop.engine.testing import run as run_virtually


class Log(list):
    def manager(self, *, is_async=True, fail=None):
        log = self

        def note(step, value=None):
            log.append(step)
            if fail == step:
                raise ValueError(step)
            return value

        class Sync:
            def __init__(self, size=1):
                self.size = size
                note("init")

            def setup(self):
                return note("setup", ["resource", self.size])

            def cleanup(self, resource):
                assert resource == ["resource", self.size]
                note("cleanup")

        class Async(Sync):
            async def setup(self):
                await asyncio.sleep(0)
                return note("setup", ["resource", self.size])

            async def cleanup(self, resource):
                assert resource == ["resource", self.size]
                note("cleanup")

        return resource_manager(name="pool")(Async if is_async else Sync)

    def user(self, name="use", *, fails=False):
        @task(name=name)
        async def use(resource=None):
            self.append(name)
            if fails:
                raise ValueError(name)
            return resource

        return use


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_resource_is_set_up_used_and_cleaned_up(is_async):
    log = Log()
    with Flow("resource") as flow:
        size = Parameter("size", default=3)
        with log.manager(is_async=is_async)(size=size) as pool:
            used = log.user()(pool)
    state = await flow.run()
    assert state.is_successful()
    assert log == ["init", "setup", "use", "cleanup"]
    assert state.result[used].result == ["resource", 3]


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_resource_that_can_be_read_once_is_given_as_it_is(is_async):
    class Cursor:
        rows = iter("abc")

        def setup(self):
            return self.rows

        def cleanup(self, rows):
            assert rows is self.rows

    class LaterCursor(Cursor):
        async def setup(self):
            return self.rows

    manager = resource_manager(name="cursor")(LaterCursor if is_async else Cursor)
    with Flow("read") as flow, manager() as rows:
        first = task(lambda rows: next(rows), name="next")(rows)
        second = task(lambda rows: next(rows), name="next")(rows, upstream_tasks=[first])
    state = await FlowRunner(flow).run()
    assert state.is_successful(), state.message
    assert [state.result[one].result for one in (first, second)] == ["a", "b"]


async def test_tasks_that_do_not_take_the_resource_wait_for_it_all_the_same():
    log = Log()
    with Flow("resource") as flow:
        with log.manager()():
            first = log.user("first")()
            log.user("second")(upstream_tasks=[first])
        log.user("outside")()
    await flow.run()
    assert log.index("setup") < log.index("first") < log.index("second") < log.index("cleanup")


async def test_it_is_cleaned_up_after_a_failure_and_the_flow_has_failed():
    log = Log()
    with Flow("resource") as flow, log.manager()() as pool:
        bad = log.user("bad", fails=True)(pool)
        log.user("good")(pool)
        after = log.user("after")(upstream_tasks=[bad])
    state = await flow.run()
    assert "cleanup" in log
    assert "after" not in log
    assert isinstance(state.result[after], TriggerFailed)
    assert state.is_failed()


@pytest.mark.parametrize("step", ["init", "setup"])
async def test_what_could_not_be_set_up_is_not_cleaned_up(step):
    log = Log()
    with Flow("resource") as flow:
        resource = log.manager(fail=step)()
        with resource as pool:
            used = log.user()(pool)
    state = await flow.run()
    assert state.is_failed()
    assert isinstance(state.result[used], TriggerFailed)
    assert isinstance(state.result[resource.cleanup_task], Skipped)
    assert log == ["init", "setup"][: ["init", "setup"].index(step) + 1]


async def test_a_failed_cleaning_up_is_seen_but_does_not_fail_the_flow():
    log = Log()
    with Flow("resource") as flow:
        resource = log.manager(fail="cleanup")()
        with resource as pool:
            log.user()(pool)
    state = await flow.run()
    assert state.is_successful()
    assert isinstance(state.result[resource.cleanup_task], Failed)


async def test_what_is_skipped_is_neither_set_up_nor_cleaned_up():
    log = Log()
    with Flow("resource") as flow:
        kind = task(lambda: "no", name="kind")()
        with case(kind, "yes"):
            resource = log.manager()()
            with resource as pool:
                log.user()(pool)
    state = await flow.run()
    assert state.is_successful()
    assert isinstance(state.result[resource.cleanup_task], Skipped)
    assert log == []


async def test_skipped_users_do_not_keep_it_from_being_cleaned_up():
    log = Log()
    with Flow("resource") as flow:
        kind = task(lambda: "no", name="kind")()
        with log.manager()() as pool, case(kind, "yes"):
            log.user()(pool)
    assert (await flow.run()).is_successful()
    assert log == ["init", "setup", "cleanup"]


async def test_resources_can_be_nested():
    log = Log()
    with Flow("nested") as flow, log.manager()(), log.manager()() as inner:
        log.user()(inner)
    assert (await flow.run()).is_successful()
    assert log == ["init", "setup"] * 2 + ["use", "cleanup", "cleanup"] or log == [
        "init",
        "init",
        "setup",
        "setup",
        "use",
        "cleanup",
        "cleanup",
    ]


async def test_mapped_users_are_all_waited_for():
    log = Log()
    with Flow("mapped") as flow, log.manager()() as pool:

        @task
        async def use(n, pool):
            await asyncio.sleep(0)
            log.append(n)
            return pool[1] * n

        used = use.map([1, 2, 3], unmapped(pool))
    state = await flow.run()
    assert state.result[used].result == [1, 2, 3]
    assert log[-1] == "cleanup"


def test_the_users_decide_the_state_of_the_flow():
    log = Log()
    with Flow("reference") as flow:
        resource = log.manager()()
        with resource as pool:
            used = log.user()(pool)
    assert flow.reference_tasks() == {used}
    assert flow.terminal_tasks() == {resource.cleanup_task}
    with Flow("empty") as flow:
        resource = log.manager()()
    assert flow.reference_tasks() == {resource.setup_task}
    with Flow("nested") as flow, log.manager()(), log.manager()() as inner:
        used = log.user()(inner)
    assert flow.reference_tasks() == {used}


def test_what_cannot_be_a_resource_manager_is_refused():
    class Half:
        def setup(self):
            pass

    with pytest.raises(FlowDefinitionError, match=r"'Half' has no method cleanup\(\)"):
        resource_manager(Half)


async def test_a_manager_that_sets_nothing_up_only_cleans_up():
    log = []

    @resource_manager
    class Folder:
        def __init__(self, name):
            self.name = name

        def cleanup(self, resource):
            log.append((self.name, resource))

    @task
    def use():
        log.append("used")
        raise ValueError("not today")

    with Flow("folder") as flow:
        resource = Folder(task(lambda: "a", name="name")())
        with resource as opened:
            used = use()
    assert opened is None
    assert flow.upstream_tasks(used) == set()
    assert {used, resource.init_task} <= flow.upstream_tasks(resource.cleanup_task)
    state = await flow.run()
    assert state.is_failed()
    assert log == ["used", ("a", None)]


def test_a_resource_is_opened_in_a_flow_and_once():
    log = Log()
    with Flow("once"):
        resource = log.manager()()
        with resource, pytest.raises(FlowDefinitionError, match="opened twice"), resource:
            pass
    with pytest.raises(FlowDefinitionError, match="outside a flow"):
        log.manager()()


def test_wrong_arguments_name_the_manager():
    with pytest.raises(FlowDefinitionError, match=r"'pool'.*unexpected keyword argument 'colour'"), Flow("wrong"):
        Log().manager()(colour="red")


def test_the_tasks_of_a_resource_can_be_configured():
    class Plain:
        def setup(self):
            return 1

        def cleanup(self, resource):
            pass

    manager = ResourceManager(
        Plain,
        name="plain",
        init_task_kwargs={"tags": ["a"]},
        setup_task_kwargs={"max_retries": 2, "retry_delay": 1},
        cleanup_task_kwargs={"timeout": 5},
    )
    with Flow("configured"):
        resource = manager()
    assert resource.init_task.tags == {"a"}
    assert resource.setup_task.max_retries == 2
    assert resource.cleanup_task.timeout == 5
    assert [one.name for one in (resource.init_task, resource.setup_task, resource.cleanup_task)] == [
        "plain",
        "plain.setup",
        "plain.cleanup",
    ]


def test_a_resource_that_is_needed_in_a_later_round_is_set_up_once():
    log = Log()
    tries = []
    with Flow("rounds") as flow, log.manager()() as pool:

        @task(max_retries=1, retry_delay=86400)
        async def use(pool):
            tries.append(pool)
            if len(tries) == 1:
                raise ValueError
            log.append("use")

        use(pool)
    assert run_virtually(flow.run()).is_successful()
    assert log == ["init", "setup", "use", "cleanup"]


# -- secrets -------------------------------------------------------------------------------------------


def secret_flow():
    with Flow("secret") as flow:
        secret = Secret("TOKEN")
        used = task(lambda token: token[::-1], name="use")(secret)
    return flow, secret, used


async def test_a_secret_comes_from_the_context_before_the_environment(monkeypatch):
    flow, _, used = secret_flow()
    monkeypatch.setenv("FLOWLOOP_SECRET__TOKEN", "abc")
    assert (await flow.run()).result[used].result == "cba"
    with context(secrets={"TOKEN": "xyz"}):
        assert (await flow.run()).result[used].result == "zyx"
    assert (await flow.run(context={"secrets": {"TOKEN": "123"}})).result[used].result == "321"


async def test_a_secret_that_is_nowhere_says_where_it_was_looked_for(monkeypatch):
    monkeypatch.delenv("FLOWLOOP_SECRET__TOKEN", raising=False)
    flow, secret, _ = secret_flow()
    error = (await flow.run()).result[secret].result
    assert isinstance(error, FlowloopError)
    assert "'TOKEN'" in str(error)
    assert "FLOWLOOP_SECRET__TOKEN" in str(error)


async def test_a_secret_is_not_shown_and_not_stored(monkeypatch):
    monkeypatch.setenv("FLOWLOOP_SECRET__TOKEN", "hunter2")
    flow, secret, _ = secret_flow()
    state = (await flow.run(context={"checkpointing": True})).result[secret]
    assert isinstance(state._result, SecretResult)
    assert state.result == "hunter2"
    assert "hunter2" not in repr(state._result)
    assert "hunter2" not in str(state.serialize())


async def test_the_result_of_a_secret_asks_again(monkeypatch):
    secret = Secret("TOKEN")
    monkeypatch.setenv("FLOWLOOP_SECRET__TOKEN", "new")
    assert (await secret.result.read()).value == "new"


# -- restarts ------------------------------------------------------------------------------------------


def restart_flow():
    log = Log()
    with Flow("restart") as flow:
        resource = log.manager()()
        with resource as pool:
            first = log.user("first")(pool)
            second = log.user("second")(pool, upstream_tasks=[first])
        secret = Secret("TOKEN")
        third = log.user("third")(secret)
    names = {
        "init": resource.init_task,
        "setup": resource.setup_task,
        "cleanup": resource.cleanup_task,
        "first": first,
        "second": second,
        "secret": secret,
        "third": third,
    }
    return flow, names, log


ALL_DONE = dict.fromkeys(["init", "setup", "cleanup", "first", "second", "secret", "third"], Success())


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({}, set()),
        ({"second": Pending()}, {"init", "setup", "cleanup"}),
        ({"second": Scheduled()}, {"init", "setup", "cleanup"}),
        ({"second": None}, {"init", "setup", "cleanup"}),
        ({"second": Cached()}, {"init", "setup", "cleanup"}),
        ({"second": Failed()}, set()),
        ({"second": Retrying(), "cleanup": None}, {"init", "setup"}),
        ({"second": Mapped(map_states=[Success(), Retrying()])}, {"init", "setup", "cleanup"}),
        ({"second": Mapped(map_states=[Success(), Failed()])}, set()),
        ({"cleanup": None}, {"init", "setup"}),
        ({"setup": Cached(), "second": None}, {"init", "cleanup"}),
        ({"third": Retrying()}, {"secret"}),
        ({"third": Retrying(), "secret": Cached()}, set()),
        ({"third": Retrying(), "secret": Failed()}, {"secret"}),
        ({"third": Retrying(), "secret": None}, set()),
        (dict.fromkeys(ALL_DONE), set()),
    ],
)
def test_what_a_restart_runs_again(changes, again):
    flow, names, _ = restart_flow()
    states = {names[name]: state for name, state in {**ALL_DONE, **changes}.items() if state is not None}
    rerun = tasks_to_rerun(flow, states)
    assert {name for name, one in names.items() if one in rerun} == again
    assert [one for one in flow.sorted_tasks() if one in rerun] == rerun


async def test_a_restarted_run_sets_up_and_cleans_up_again(monkeypatch):
    monkeypatch.setenv("FLOWLOOP_SECRET__TOKEN", "abc")
    flow, names, log = restart_flow()
    states = {names[name]: Success() for name in ("init", "setup", "cleanup", "first", "secret")}
    seen = []
    state = await FlowRunner(flow).run(
        task_states=states,
        task_runner_state_handlers=[lambda runner, old, new: seen.append((runner.task.name, type(old), type(new)))],
    )
    assert state.is_successful()
    assert [one for one in log if one != "third"] == ["init", "setup", "second", "cleanup"]
    assert state.result[names["third"]].result == "abc"
    assert ("pool.setup", Success, Pending) in seen


async def test_what_flowloop_computed_is_computed_again_for_what_needs_it():
    @task(nout=2)
    async def pair():
        return 1, 2

    got = []
    with Flow("generated") as flow:
        made = pair()
        one, two = made
        task(lambda x: got.append(x), name="keep")(one + two)
    states = {made: Success(result=(1, 2)), one: Success(), two: Success()}
    assert (await FlowRunner(flow).run(task_states=states)).is_successful()
    assert got == [3]
