"""What a task is made of, and what it refuses to be made of."""

import datetime
import functools
import inspect
import json
import pickle
from typing import Any

import cloudpickle
import pytest

from flowloop.engine import Flow, FlowRunner, FunctionTask, Task, TaskRunner, defaults_from_attrs, tags, task
from flowloop.engine.cache_validators import all_inputs, duration_only, never_use
from flowloop.engine.errors import FlowDefinitionError
from flowloop.engine.executors import LocalExecutor
from flowloop.engine.result import Result
from flowloop.engine.results import LocalResult
from flowloop.engine.state import Cached, Failed, Success
from flowloop.engine.triggers import all_finished, all_successful

HOUR = datetime.timedelta(hours=1)


def test_the_arguments_come_in_the_order_that_code_written_for_prefect_1_knows():
    *known, first, second = list(inspect.signature(Task.__init__).parameters)[1:]
    assert (first, second) == ("needs", "stream")
    assert known == [
        "name",
        "slug",
        "tags",
        "max_retries",
        "retry_delay",
        "retry_on",
        "timeout",
        "trigger",
        "skip_on_upstream_skip",
        "cache_for",
        "cache_validator",
        "cache_key",
        "checkpoint",
        "state_handlers",
        "on_failure",
        "log_stdout",
        "result",
        "target",
        "task_run_name",
        "nout",
    ]
    assert list(inspect.signature(Flow.__init__).parameters)[1:12] == [
        "name",
        "schedule",
        "executor",
        "tasks",
        "edges",
        "reference_tasks",
        "state_handlers",
        "on_failure",
        "validate",
        "result",
        "terminal_state_handler",
    ]


def test_the_defaults():
    made = Task()
    assert (made.name, made.slug, made.tags, made.max_retries) == ("Task", None, set(), 0)
    assert (made.retry_delay, made.retry_on, made.timeout, made.cache_for) == (None, None, None, None)
    assert made.trigger is all_successful
    assert made.cache_validator is never_use
    assert made.skip_on_upstream_skip
    assert (made.checkpoint, made.result, made.target, made.task_run_name) == (None, None, None, None)
    assert (made.nout, made.log_stdout, made.state_handlers) == (None, False, [])


def test_a_task_is_named_after_its_class_or_function():
    class Mine(Task):
        pass

    def body():
        pass

    class Callable:
        def __call__(self):
            return 1

    assert Mine().name == "Mine"
    assert Mine("other").name == "other"
    assert task(body).name == "body"
    assert task(name="other")(body).name == "other"
    assert FunctionTask(Callable()).name == "Callable"


async def waits(*args, **kwargs): ...


class Waiting:
    """Async, as can be seen of its class alone."""

    async def __call__(self, *args, **kwargs): ...


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": 5}, "name is a text that is not empty, not 5"),
        ({"name": ""}, "name is a text that is not empty"),
        ({"slug": ""}, "slug is a text"),
        ({"tags": "one"}, "tags is a set of strings, not the one string 'one'"),
        ({"tags": [1]}, "tags is a set of strings, and 1 is none"),
        ({"max_retries": -1, "retry_delay": 1}, "max_retries is a whole number from zero up, not -1"),
        ({"max_retries": 1.5, "retry_delay": 1}, "max_retries is a whole number"),
        ({"max_retries": True, "retry_delay": 1}, "max_retries is a whole number"),
        ({"max_retries": 1}, "max_retries needs a retry_delay"),
        ({"retry_delay": 1}, "retry_delay does nothing without max_retries"),
        ({"max_retries": 1, "retry_delay": float("inf")}, "retry_delay is a number of seconds.*up to a hundred years"),
        ({"max_retries": 1, "retry_delay": float("nan")}, "retry_delay is a number of seconds"),
        ({"max_retries": 1, "retry_delay": 10**400}, "retry_delay is a number of seconds"),
        ({"max_retries": 1, "retry_delay": datetime.timedelta.max}, "retry_delay is a number of seconds"),
        ({"max_retries": 1, "retry_delay": [1, float("inf")]}, "retry_delay is a number of seconds"),
        (
            {"timeout": float("inf")},
            "timeout is a whole number of seconds above zero, at most a hundred years, not inf",
        ),
        ({"timeout": float("nan")}, "timeout is a whole number of seconds"),
        ({"timeout": 10**400}, "timeout is a whole number of seconds"),
        ({"timeout": datetime.timedelta.max}, "timeout is a whole number of seconds"),
        ({"cache_for": datetime.timedelta.max}, "cache_for is at most a hundred years"),
        ({"tags": 5}, "tags is a set of strings, not 5"),
        ({"max_retries": 1, "retry_delay": []}, "retry_delay is an empty list"),
        ({"max_retries": 1, "retry_delay": -1}, "retry_delay is a number of seconds"),
        ({"max_retries": 1, "retry_delay": "1"}, "retry_delay is a number of seconds"),
        ({"max_retries": 1, "retry_delay": [1, None]}, "retry_delay is a number of seconds"),
        ({"max_retries": 1, "retry_delay": -HOUR}, "retry_delay is a number of seconds"),
        ({"retry_on": ValueError}, "retry_on does nothing without max_retries"),
        ({"max_retries": 1, "retry_delay": 1, "retry_on": "ValueError"}, "retry_on takes exception types"),
        ({"max_retries": 1, "retry_delay": 1, "retry_on": [int]}, "retry_on takes exception types, not <class 'int'>"),
        ({"max_retries": 1, "retry_delay": 1, "retry_on": ValueError("x")}, "retry_on takes exception types"),
        ({"timeout": 1.5}, "timeout is a whole number of seconds above zero, at most a hundred years, not 1.5"),
        ({"timeout": 0}, "timeout is a whole number of seconds above zero, at most a hundred years, not 0"),
        ({"timeout": True}, "timeout is a whole number"),
        ({"timeout": "5"}, "timeout is a whole number"),
        ({"timeout": datetime.timedelta(milliseconds=999)}, "timeout is a whole number"),
        ({"trigger": "all_failed"}, "trigger is a function, not 'all_failed'"),
        ({"cache_for": 60}, "cache_for is a timedelta, not 60"),
        ({"cache_for": HOUR, "cache_validator": "all_inputs"}, "cache_validator is a function"),
        ({"cache_key": 5}, "cache_key is a text"),
        ({"state_handlers": print}, "state_handlers is a list of functions"),
        ({"state_handlers": [5]}, "state_handlers is a list of functions, and 5 is none"),
        ({"on_failure": "mail"}, "on_failure is a function"),
        ({"result": LocalResult}, r"result is a result, not the class LocalResult: write LocalResult\(...\)"),
        ({"result": "results/"}, "result is a result that says where to store, not 'results/'"),
        ({"target": 5}, "target is a text or a function"),
        ({"target": waits}, "target is asked for at once and not awaited, so it is no async function"),
        ({"task_run_name": waits}, "task_run_name is asked for at once"),
        ({"task_run_name": functools.partial(waits)}, "task_run_name is asked for at once"),
        ({"task_run_name": Waiting()}, "task_run_name is asked for at once"),
        ({"target": functools.partial(Waiting())}, "target is asked for at once"),
        ({"max_retries": 1, "retry_delay": waits}, "retry_delay is asked for at once"),
        ({"task_run_name": 5}, "task_run_name is a text or a function"),
        ({"nout": -1}, "nout is a whole number"),
        ({"tags": [[]]}, r"tags is a set of strings, and \[\] is none"),
        ({"timeout": 10**5_000}, "timeout"),
    ],
)
def test_an_argument_that_cannot_be_names_the_task_the_field_and_what_it_takes(arguments, message):
    named = {"name": "mine", **arguments}
    with pytest.raises(FlowDefinitionError, match=message) as raised:
        Task(**named)
    assert f"task {named['name'] or 'Task'!r}" in str(raised.value)
    if "name" not in arguments and not message.endswith(("needs a retry_delay", "without max_retries")):
        # the same holds for a changed copy
        with pytest.raises(FlowDefinitionError, match=message):
            Task(name="mine").copy(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "name is a text"),
        ({"name": None}, "name is a text"),
        ({"schedule": 5}, r"schedule is a schedule \(flowloop.engine.schedules\)"),
        ({"executor": LocalExecutor}, r"executor is an executor, not the class LocalExecutor: write LocalExecutor\(\)"),
        ({"executor": "local"}, "executor is an executor, or a dict of executors by name, not 'local'"),
        ({"state_handlers": print}, "state_handlers is a list of functions"),
        ({"on_failure": 5}, "on_failure is a function"),
        ({"result": LocalResult}, "result is a result, not the class"),
        ({"terminal_state_handler": []}, "terminal_state_handler is a function"),
        ({"tasks": [5]}, "tasks are Task objects, not int"),
        ({"edges": [(1, 2)]}, "edges are Edge objects, not tuple"),
        ({"reference_tasks": [Task(name="elsewhere")]}, "task 'elsewhere' is not in flow"),
    ],
)
def test_a_flow_checks_its_arguments_too(arguments, message):
    with pytest.raises(FlowDefinitionError, match=message):
        Flow(**{"name": "f", **arguments})


def test_what_is_given_is_kept_in_one_form():
    made = Task(
        tags=["a", "b", "a"],
        max_retries=2,
        retry_delay=HOUR,
        retry_on=[ValueError, KeyError],
        timeout=datetime.timedelta(minutes=1),
        cache_for=HOUR,
        trigger=all_finished,
    )
    assert made.tags == {"a", "b"}
    assert made.retry_on == (ValueError, KeyError)
    assert made.timeout == 60
    assert made.cache_validator is duration_only
    assert Task(max_retries=1, retry_delay=0, retry_on=OSError).retry_on == (OSError,)
    assert Task(cache_for=HOUR, cache_validator=all_inputs).cache_validator is all_inputs


def test_a_part_of_a_second_of_a_timeout_does_not_count():
    with pytest.warns(UserWarning, match="whole seconds: .* is taken as 3 s"):
        assert Task(timeout=datetime.timedelta(seconds=3, microseconds=1)).timeout == 3


def test_a_task_that_does_nothing_returns_nothing():
    assert Task().outputs() is None
    assert Task().serialize()["outputs"] == "None"


def test_runners_are_shown_with_what_they_run():
    assert repr(TaskRunner(Task(name="greet"))) == "<TaskRunner: greet>"
    assert repr(FlowRunner(Flow("daily"))) == "<FlowRunner: daily>"


def test_a_validator_without_a_time_to_keep_results_warns():
    with pytest.warns(UserWarning, match="'t' has a cache_validator but no cache_for"):
        Task(name="t", cache_validator=all_inputs)


def test_a_target_takes_the_place_of_the_location_in_a_copy_of_the_result():
    result = LocalResult("/tmp", location="first")
    with pytest.warns(UserWarning, match="'first'.*'second': the target is where it is stored"):
        made = Task(result=result, target="second")
    assert made.result is not result
    assert (made.result.location, result.location) == ("second", "first")
    assert Task(target="alone").result is None
    with pytest.warns(UserWarning, match="'first'.*'third'"):
        assert Task(result=result).copy(target="third").result.location == "third"
    assert made.copy().result.location == "second"  # and no warning


def test_a_result_is_kept_as_it_is():
    result = Result()
    assert Task(result=result).result is result


async def test_on_failure_is_called_on_failures_only():
    seen = []

    async def on_failure(made, state):
        seen.append((made, state))

    made = Task(name="t", on_failure=on_failure)
    (handler,) = made.state_handlers
    failed = Failed()
    assert await handler(made, Success(), failed) is failed
    assert (await handler(made, failed, Success())).is_successful()
    assert seen == [(made, failed)]


# -- nout ----------------------------------------------------------------------------------------------


def test_how_many_values_come_back_is_read_from_the_annotation():
    def pair() -> tuple[int, str]: ...
    def many() -> tuple[int, ...]: ...
    def one() -> int: ...
    def bare(): ...
    def unknown() -> "tuple[DoesNotExist, int]": ...  # noqa: F821

    class Three(Task):
        def run(self) -> tuple[int, int, int]: ...

    assert [task(body).nout for body in (pair, many, one, bare, unknown)] == [2, None, None, None, None]
    assert Three().nout == 3
    assert task(nout=5)(pair).nout == 5


async def test_a_result_is_unpacked_into_as_many_tasks():
    @task
    async def pair() -> tuple[int, int]:
        return 1, 2

    @task(nout=3)
    async def three():
        return "abc"

    with Flow("unpack") as flow:
        a, b = pair()
        x, *rest = three()
    state = await flow.run()
    assert [state.result[one].result for one in (a, b, x, *rest)] == [1, 2, "a", "b", "c"]
    with pytest.raises(TypeError, match="'bare' cannot be unpacked: say how many values it returns with nout="):
        list(Task(name="bare"))


# -- bodies --------------------------------------------------------------------------------------------


def test_bodies_that_could_not_be_called_by_name_are_refused_where_they_are_written():
    def varargs(*things): ...
    def positional(a, /, b): ...
    def reserved(a, upstream_tasks): ...
    def method_varargs(self, *things): ...
    def method_positional(self, a, /, b): ...
    def method_reserved(self, mapped): ...

    for body, method, message in (
        (varargs, method_varargs, r"takes \*things, but inputs are passed by name"),
        (positional, method_positional, "'a' is positional-only"),
        (reserved, method_reserved, "cannot be called '(upstream_tasks|mapped)'; reserved are flow, mapped, task_args"),
    ):
        with pytest.raises(FlowDefinitionError, match=f"task '{body.__name__}'.*{message}"):
            task(body)
        with pytest.raises(FlowDefinitionError, match=f"task 'Mine'.*{message}"):
            type("Mine", (Task,), {"run": method})
    with pytest.raises(FlowDefinitionError, match="made of a function, not of 5"):
        FunctionTask(5)


async def test_a_bare_task_is_a_barrier():
    ran = []

    @task
    async def note(name):
        ran.append(name)

    with Flow("barrier") as flow:
        barrier = Task(name="barrier")(upstream_tasks=[note("a"), note("b")])
        note("c", upstream_tasks=[barrier])
    state = await flow.run()
    assert state.result[barrier].is_successful()
    assert sorted(ran[:2]) == ["a", "b"]
    assert ran[2] == "c"


async def test_run_does_the_work_directly():
    @task
    async def inc(x):
        return x + 1

    @task
    def dec(x):
        return x - 1

    assert await inc.run(1) == 2
    assert dec.run(x=1) == 0
    assert inc.__doc__ is None
    assert task(test_run_does_the_work_directly).__doc__ == test_run_does_the_work_directly.__doc__


def test_inputs_and_outputs_are_described():
    @task
    def body(a: int, b: str = "x", *, c=None, **more) -> float: ...

    assert body.inputs() == {
        "a": {"type": int, "required": True, "default": None},
        "b": {"type": str, "required": False, "default": "x"},
        "c": {"type": Any, "required": False, "default": None},
    }
    assert body.outputs() is float
    assert task(lambda x: x, name="untyped").outputs() is Any
    assert Task().inputs() == {}
    json.dumps(body.serialize())


def test_the_signature_of_a_task_is_that_of_its_body_and_what_wires_it():
    @task
    def body(a: int, b: str = "x", *, c=None, **more) -> float: ...

    own, of_body = inspect.signature(body), inspect.signature(body.fn)
    assert {name: own.parameters[name] for name in of_body.parameters} == dict(of_body.parameters)
    assert own.parameters.keys() - of_body.parameters.keys() == {"mapped", "task_args", "upstream_tasks", "flow"}
    assert "name" in inspect.signature(Task).parameters


@pytest.mark.parametrize("is_async", [False, True])
async def test_arguments_default_to_attributes_of_the_same_name(is_async):
    class Fetch(Task):
        def __init__(self, url=None, size=None, **kwargs):
            self.url, self.size = url, size
            super().__init__(**kwargs)

        if is_async:

            @defaults_from_attrs("url", "size")
            async def run(self, url=None, size=None, other=1):
                return url, size, other
        else:

            @defaults_from_attrs("url", "size")
            def run(self, url=None, size=None, other=1):
                return url, size, other

    made = Fetch("u", size=3)
    answers = [made.run(), made.run("x"), made.run(size=None, other=2), made.run(url="y", size=4)]
    if is_async:
        answers = [await answer for answer in answers]
    assert answers == [("u", 3, 1), ("x", 3, 1), ("u", None, 2), ("y", 4, 1)]
    with Flow("defaults") as flow:
        wired = made(size=9)
    assert (await flow.run()).result[wired].result == ("u", 9, 1)


def test_tasks_are_pickled_with_what_they_are():
    made = task(lambda x: x + 1, name="inc", tags=["a"], max_retries=1, retry_delay=1)
    again = pickle.loads(cloudpickle.dumps(made))
    assert (again.name, again.tags, again.run(1)) == ("inc", {"a"}, 2)


# -- copies --------------------------------------------------------------------------------------------


def test_a_task_is_called_and_found_as_its_function():
    assert inspect.unwrap(task(plus_one := lambda x: x + 1)) is plus_one

    def body() -> None:
        """Do it."""

    made = task(body, name="another")
    assert (made.__name__, made.__qualname__, made.__module__, made.__doc__) == (
        "body",
        body.__qualname__,
        __name__,
        "Do it.",
    )
    assert made.copy().__name__ == "body"
    assert pickle.loads(cloudpickle.dumps(made)).__name__ == "body"


def test_a_copy_is_apart():
    first = Task(name="first", tags=["a"])
    with tags("b"):
        second = first.copy(name="second", max_retries=1, retry_delay=5, tags=["c"])
        third = first.copy()
    second.tags.add("d")  # what a copy is given is added to what it has
    assert (first.name, first.tags, first.max_retries) == ("first", {"a"}, 0)
    assert (second.name, second.tags, second.max_retries) == ("second", {"a", "b", "c", "d"}, 1)
    assert third.tags == {"a", "b"}


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ({}, {"max_retries": 2}, (2, 0)),
        ({}, {"retry_delay": 5}, (0, 5)),
        ({}, {"retry_on": [OSError]}, (0, None)),
        ({"max_retries": 1, "retry_delay": 5}, {"max_retries": 0}, (0, 5)),
        ({"max_retries": 1, "retry_delay": 5}, {"retry_delay": None}, (1, 0)),
    ],
)
async def test_a_copy_may_change_one_of_two_that_belong_together(before, change, after):
    attempts = []

    @task(**before)
    async def fails():
        attempts.append(1)
        raise ValueError

    with Flow("copies") as flow:
        made = fails(task_args=change)
    assert (made.max_retries, made.retry_delay) == after
    assert (fails.copy(**change).max_retries, fails.copy(**change).retry_delay) == after
    made.retry_delay = 0
    await flow.run()
    assert len(attempts) == after[0] + 1


async def test_a_task_with_a_slug_is_called_as_often_as_one_likes():
    own = task(lambda: 1, name="own", slug="mine")
    with Flow("slugs") as flow:
        made = [own(), own(), own(), own.bind()]
        with pytest.raises(FlowDefinitionError, match="two tasks have the slug 'mine'"):
            task(lambda: 1, name="other", slug="mine")()
    assert [flow.slugs[one] for one in made] == ["mine", "mine-copy", "mine-copy-2", "mine-copy-3"]


def test_a_copy_of_what_is_wired_is_warned_of():
    inc = task(lambda x: x + 1, name="inc")
    with Flow("wired"):
        first = inc(1)
        first.copy()
        inc(first)
        for copied in (first.copy, lambda: first(2)):
            with pytest.warns(UserWarning, match="task 'inc' is wired to others in flow 'wired', and a copy was made"):
                copied()
    first.copy()


def test_a_task_in_a_constructor_is_warned_of():
    class Fetch(Task):
        def __init__(self, url, **kwargs):
            self.url = url
            super().__init__(**kwargs)

    other = Task(name="other")
    for make in (lambda: Fetch(other), lambda: Fetch(url=other)):
        with pytest.warns(UserWarning, match=r"task 'other' was passed as an argument to Fetch\(...\)"):
            make()


def test_attributes_that_a_class_sets_and_that_are_lost_are_warned_of():
    class Before(Task):
        def __init__(self, **kwargs):
            self.target, self.url = "out.txt", "kept"
            super().__init__(**kwargs)

    class Inside(Task):
        max_retries = 3

    for kind, field in ((Before, "target"), (Inside, "max_retries")):
        with pytest.warns(UserWarning, match=rf"{kind.__name__} sets {field} itself, which Task.__init__ sets anew"):
            kind(name="t")


def test_a_class_that_does_not_call_super_says_so():
    class Mine(Task):
        def __init__(self, url):
            self.url = url

        def run(self):
            return self.url

    made = Mine("u")
    assert made.url == "u"
    assert not hasattr(made, "colour")
    with Flow("unmade") as flow:
        for use in (made, made.bind, made.map, lambda: flow.add_task(made), lambda: made.name):
            with pytest.raises(
                FlowDefinitionError, match=r"class Mine: its tasks have no \w+: call super\(\).__init__"
            ):
                use()


def test_a_method_of_a_builtin_type_is_no_body():
    with pytest.raises(FlowDefinitionError, match="task 'upper': 'self' is positional-only"):
        task(str.upper)


@pytest.mark.parametrize("fn", [int, type, dict.fromkeys], ids=["int", "type", "fromkeys"])
def test_what_hides_its_arguments_is_no_body(fn):
    try:
        inspect.signature(fn)
    except ValueError:
        with pytest.raises(
            FlowDefinitionError, match=r"task '\w+': what .* takes cannot be read .*function of your own"
        ):
            task(fn)
    else:
        with pytest.raises(FlowDefinitionError, match="task 'fromkeys': 'iterable' is positional-only"):
            task(fn)


def test_a_tag_is_a_text():
    with (
        pytest.raises(FlowDefinitionError, match=r"tags\(...\): tags is a set of strings, and 5 is none"),
        tags("a", 5),
    ):
        pass


def test_a_task_is_no_body():
    with pytest.raises(FlowDefinitionError, match="a task is made of a function, not of <Task: inner>"):
        task(task(lambda: 1, name="inner"))
    with pytest.raises(FlowDefinitionError, match=r"not of <class '.*Task'>, which is one already"):
        task(Task)


def test_a_task_is_called_in_a_flow():
    with pytest.raises(FlowDefinitionError, match="task 'lost': flow= takes a flow, not 5"):
        Task(name="lost")(flow=5)


def test_a_body_that_takes_any_number_of_values_cannot_be_given_them_by_position():
    made = Task(name="t")
    with Flow("many"):
        for call in (made.map, made.bind, made):
            with pytest.raises(FlowDefinitionError, match=r"task 't': inputs are passed by name"):
                call([1, 2])


def test_a_copy_keeps_and_changes_attributes_of_a_subclass():
    class Mine(Task):
        def __init__(self, url, **kwargs):
            self.url = url
            super().__init__(**kwargs)

    made = Mine("a")
    assert made.copy().url == "a"
    assert made.copy(url="b").url == "b"
    assert type(made.copy()) is Mine
    with pytest.raises(FlowDefinitionError, match="task_args names 'colour', which tasks do not have"):
        made.copy(colour="red")
    with pytest.raises(FlowDefinitionError, match="task_args names 'run'"):
        made.copy(run=print)


def test_a_copy_that_caches_gets_a_validator_that_does():
    assert Task().copy(cache_for=HOUR).cache_validator is duration_only
    assert Task().copy(cache_for=HOUR, cache_validator=all_inputs).cache_validator is all_inputs


async def test_a_copy_gets_its_own_failure_handler():
    seen = []
    first = Task(name="first")
    second = first.copy(on_failure=lambda made, state: seen.append(made.name))
    await second.state_handlers[0](second, Success(), Failed())
    assert first.state_handlers == []
    assert seen == ["first"]


def test_tags_of_open_blocks_add_up():
    with tags("a"), tags("b", "c"):
        made = Task(tags=["d"])
    assert made.tags == {"a", "b", "c", "d"}
    assert Task().tags == set()


# -- a task is not its result --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "misuse", [bool, lambda one: not one, lambda one: one and 1, lambda one: 5 if one else 6, lambda one: one > 3 and 1]
)
def test_a_task_is_neither_true_nor_false(misuse):
    with pytest.raises(FlowDefinitionError, match=r"task '\w+' is neither true nor false.*case\(\.\.\.\)"), Flow("f"):
        misuse(Task(name="one"))


@pytest.mark.parametrize("text", [lambda one: f"{one}/data", "{}/data".format, lambda one: format(one, ">20")])
def test_a_task_in_a_text_is_warned_of(text):
    one = Task(name="one")
    with (
        pytest.warns(UserWarning, match="task 'one' was put into a text while the flow is built.*never its result"),
        Flow("f"),
    ):
        assert "<Task: one>" in text(Task.bind(one))
    assert f"{one}, {one!r}" == "<Task: one>, <Task: one>"  # where no flow is built it is what people read


def test_a_task_contains_nothing_yet():
    with pytest.raises(FlowDefinitionError, match="what task 'one' contains is known only when it runs"):
        5 in Task(name="one", nout=2)  # noqa: B015


async def test_a_task_is_not_awaited():
    @task
    async def fetch():
        return 1

    with pytest.raises(FlowDefinitionError, match=r"task 'fetch' was awaited.*await flow\.run\(\).*await task\.run"):
        await fetch
    with pytest.raises(FlowDefinitionError, match="task 'fetch' was awaited"), Flow("f"):
        await fetch()


def test_calling_outside_a_flow_says_what_to_do():
    @task
    def one():
        pass

    for call in (one, one.map, one.bind, lambda: one[0], lambda: one + 1, lambda: one.set_upstream(one.copy())):
        with pytest.raises(FlowDefinitionError, match=r"outside a flow: call it inside `with Flow\(\.\.\.\)`"):
            call()


async def later(answer):
    return answer


async def drips():
    yield "a name"


def fails():
    raise ValueError("again")


AT_ONCE = {
    "task_run_name": {"task_run_name": lambda **_: later("a name")},
    "task_run_name that drips": {"task_run_name": lambda **_: drips()},
    "target": {"target": lambda **_: later("a.json"), "result": LocalResult()},
    "location": {"result": LocalResult(location=lambda **_: later("a.json"))},
    "retry_delay": {"max_retries": 1, "retry_delay": lambda attempt: later(0)},
}


@pytest.mark.parametrize("field", AT_ONCE)
async def test_a_function_that_would_have_to_be_awaited_is_refused_where_it_is_asked_at_once(field, tmp_path):
    options = dict(AT_ONCE[field])
    if "result" in options:
        options["result"].dir = str(tmp_path)
    body = fails if field == "retry_delay" else lambda: 1
    state = await TaskRunner(task(body, name="mine", **options)).run(context={"checkpointing": True})
    assert type(state) is Failed
    assert "has to be awaited" in state.message
    assert "let it be a function that is not async" in state.message
    assert field == "retry_delay" or "task 'mine'" in state.message
    assert field.split()[0] in state.message


AWAITED = {
    "trigger": lambda called: {"trigger": lambda upstream: called("trigger", True)},
    "validator": lambda called: {
        "cache_for": HOUR,
        "cache_validator": lambda *_: called("validator", True),
    },
    "state_handlers": lambda called: {"state_handlers": [lambda *_: called("state_handlers", None)]},
    "on_failure": lambda called: {"on_failure": lambda *_: called("on_failure", None)},
}


@pytest.mark.parametrize("field", AWAITED)
async def test_what_a_function_gives_to_await_is_awaited_where_it_may_be(field):
    heard = []

    async def called(name, answer):
        heard.append(name)
        return answer

    one = task(fails if field == "on_failure" else lambda: 1, name="mine", **AWAITED[field](called))
    known = Cached(result=1) if field == "validator" else None
    state = await TaskRunner(one).run(known)
    assert type(state) is (Failed if field == "on_failure" else Cached if known else Success)
    assert set(heard) == {field}
