"""A flow file as people wrote them for Prefect 1: nothing in it knows of flowloop.

It prints the final values as one JSON document.
"""

import datetime
import json
import os
import tempfile

import prefect
from prefect import Flow, Parameter, Task, apply_map, case, flatten, resource_manager, tags, task, unmapped
from prefect.engine import signals
from prefect.engine.cache_validators import all_parameters
from prefect.engine.results import LocalResult
from prefect.engine.state import Failed, Skipped, Success
from prefect.executors import LocalDaskExecutor, LocalExecutor
from prefect.run_configs import LocalRun
from prefect.schedules import Schedule
from prefect.schedules.clocks import DatesClock
from prefect.storage import Local
from prefect.tasks.control_flow import ifelse, merge, switch
from prefect.tasks.control_flow.filter import FilterTask
from prefect.tasks.prefect import create_flow_run, wait_for_flow_run  # noqa: F401
from prefect.tasks.secrets import EnvVarSecret, PrefectSecret
from prefect.tasks.shell import ShellTask
from prefect.triggers import all_finished, any_failed
from prefect.utilities.collections import flatten_seq, merge_dicts
from prefect.utilities.debug import raise_on_exception  # noqa: F401
from prefect.utilities.edges import mapped
from prefect.utilities.logging import get_logger
from prefect.utilities.notifications import slack_notifier  # noqa: F401
from prefect.utilities.tasks import defaults_from_attrs

FOLDER = os.environ.get("HERE") or tempfile.mkdtemp()
logger = get_logger("everything")
told = []


def tell(task_, old_state, new_state):
    """A state handler, which lets everything pass."""
    told.append(f"{task_.name}: {type(new_state).__name__}")
    return new_state


def tell_of_failure(task_, state):
    told.append(f"{task_.name} failed")


# -- functions as tasks ----------------------------------------------------------------------------------


@task(nout=2)
def bounds(n):
    return 0, n


@task
def numbers(low, high):
    return list(range(low, high))


@task(max_retries=2, retry_delay=datetime.timedelta(seconds=0), state_handlers=[tell])
def transform(x, factor):
    if x == 2 and prefect.context.get("task_run_count") == 1:
        raise ValueError("once")
    return x * factor


@task(on_failure=tell_of_failure)
def breaks(x):
    if x == 3:
        raise signals.FAIL("three is no good", result=-3)
    if x == 4:
        raise signals.SKIP("four is left out", result=None)
    return x


@task(trigger=any_failed)
def clean_up():
    return "cleaned up"


@task(trigger=all_finished, skip_on_upstream_skip=False)
def count(values):
    return len(values)


@task
def total(values):
    return sum(values)


@task
def collatz(n):
    """Loop until one."""
    state = prefect.context.get("task_loop_result", {"n": n, "steps": 0})
    if state["n"] == 1:
        return state["steps"]
    following = state["n"] // 2 if state["n"] % 2 == 0 else 3 * state["n"] + 1
    raise signals.LOOP(result={"n": following, "steps": state["steps"] + 1})


@task(target="{name}.txt", result=LocalResult(dir=FOLDER), checkpoint=True)
def expensive(name):
    return "made of " + name


@task(cache_for=datetime.timedelta(hours=1), cache_validator=all_parameters)
def cached():
    return "cached"


@task
def login(password):
    return "*" * len(password)


# -- classes as tasks ------------------------------------------------------------------------------------


class Greet(Task):
    def __init__(self, greeting="Hello", **kwargs):
        self.greeting = greeting
        super().__init__(**kwargs)

    @defaults_from_attrs("greeting")
    def run(self, name, greeting=None):
        self.logger.info("greeting %s", name)
        return f"{greeting}, {name}!"


class Report(Task):
    def run(self, **parts):
        logger.info("reporting")
        return merge_dicts({"parts": sorted(parts)}, {"sum": sum(flatten_seq([[1], [2, [3]]]))})


@resource_manager
class Connection:
    def __init__(self, name):
        self.name = name

    def setup(self):
        told.append("open")
        return {"name": self.name}

    def cleanup(self, connection):
        told.append("close")


@task
def insert(row, connection):
    return "{} into {}".format(row, connection["name"])


# -- the flow --------------------------------------------------------------------------------------------

soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1)
schedule = Schedule(clocks=[DatesClock([soon], parameter_defaults={"n": 5})])

with Flow("everything", schedule=schedule, result=LocalResult(dir=FOLDER)) as flow:
    n = Parameter("n", default=4)
    mode = Parameter("mode", default="left")
    low, high = bounds(n)
    found = numbers(low, high)
    with tags("etl"):
        transformed = transform.map(found, factor=unmapped(10))
    summed = total(transformed)
    nested = total(flatten([[1, 2], [3]]))
    broken = breaks.map(found)
    counted = count(broken)
    cleaned = clean_up(upstream_tasks=[broken])
    kept = FilterTask()(broken)
    both = apply_map(lambda x, y: transform(x, factor=y), [1, 5], mapped([3, 4]))

    with case(mode, "left"):
        left = Greet(name="left")("left")
    with case(mode, "right"):
        right = Greet("Bye", name="right")("right")
    taken = merge(left, right)
    yes, no = Greet(name="yes")("yes"), Greet(name="no")("no")
    ifelse(n > 3, yes, no)
    one, two = Greet(name="one")("one"), Greet(name="two")("two")
    switch(mode, {"left": one, "right": two})

    steps = collatz(n)
    made = expensive("stone")
    kept_long = cached()
    stars = login(PrefectSecret("PASSWORD"))
    env = EnvVarSecret("WHO", raise_if_missing=True)
    shell = ShellTask(helper_script="X=6")("echo $((X * 7))")
    with Connection("warehouse") as connection:
        inserted = insert.map(found, connection=unmapped(connection))
    report = Report()(a=summed, b=taken)

# the imperative way
extra = Greet(name="imperative")
flow.add_task(extra)
extra.set_upstream(summed, flow=flow)
extra.set_dependencies(flow, keyword_tasks={"name": env})
flow.set_reference_tasks([summed, extra, report, cleaned])
flow.executor = LocalDaskExecutor(scheduler="threads", num_workers=4) if os.name else LocalExecutor()
flow.run_config = LocalRun(labels=["here"])
flow.storage = Local()


def shown(state):
    if isinstance(state, Skipped):
        return "skipped"
    if isinstance(state, Failed):
        return "failed"
    if state.is_mapped():
        return [shown(child) for child in state.map_states]
    return state.result


if __name__ == "__main__":
    with prefect.context(secrets={"PASSWORD": "secret"}):
        final = flow.run(run_on_schedule=True, parameters={"mode": "left"})
        again = flow.run(run_on_schedule=False, n=3, mode="right")
    assert isinstance(again, Success) or again.is_failed()
    names = "summed nested broken counted cleaned kept both left right taken yes no one two steps made kept_long stars"
    names += " env shell inserted report extra"
    runs = [
        {
            name: [shown(run.result[one]) for one in globals()[name]]
            if isinstance(globals()[name], list)
            else shown(run.result[globals()[name]])
            for name in names.split()
        }
        for run in (final, again)
    ]
    resources = {"opened": "open" in told, "closed": told.count("open") == told.count("close")}
    heard = sorted(line for line in told if line not in ("open", "close"))
    print(
        json.dumps({"states": [type(final).__name__, type(again).__name__], "runs": runs, "told": heard, **resources})
    )
