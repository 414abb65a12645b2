"""``docs/semantics.md`` is complete, against the list here, and true: each name is where the table says."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from flowloop.backends.memory.backend import MemoryBackend
from flowloop.engine import Flow, Parameter, context, task
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.result import Result
from flowloop.engine.settings import Settings
from flowloop.engine.signals import LOOP
from flowloop.engine.state import Resume
from flowloop.engine.task import Task
from flowloop.engine.testing import VirtualClock

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "semantics.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([^`]+)` \| `([\w.]+):([\w.]+)` \|", PAGE, re.MULTILINE)

NAMES = """
    State(message, result, context, cached_inputs)
    Pending  Scheduled  Paused  Resume  Retrying  Submitted  ClientFailed  Queued  Running  Cancelling  Finished
    Success  Failed  Cancelled  Looped  Cached  Mapped  Skipped  TimedOut  TriggerFailed  ValidationFailed  NoResult
    State.message  State.result  State._result  State.context  State.cached_inputs  State.color
    Scheduled.start_time  Paused.start_time  Queued.start_time  Retrying.run_count  Submitted.state  Looped.loop_count
    Cached.hashed_inputs  Cached.cached_parameters  Cached.cached_result_expiration  Mapped.map_states
    Mapped.n_map_states
    State.is_pending  State.is_queued  State.is_retrying  State.is_running  State.is_cached  State.is_finished
    State.is_looped  State.is_scheduled  State.is_submitted  State.is_skipped  State.is_successful  State.is_failed
    State.is_mapped  State.is_meta_state
    State.children(include_self, names_only)  State.parents(include_self, names_only)
    State.load_result  State.load_cached_results  State.serialize  State.deserialize
    State.__getstate__  State.__sizeof__  State.__eq__  State.__hash__

    PrefectSignal  PrefectStateSignal  ENDRUN(state)
    FAIL  LOOP  TRIGGERFAIL  VALIDATIONFAIL  SUCCESS  RETRY  SKIP  PAUSE
    TaskTimeoutSignal  VersionLockMismatchSignal  signal_from_state(state)

    all_successful  all_failed  any_successful  any_failed  all_finished  always_run  manual_only
    some_failed(at_least, at_most)  some_successful(at_least, at_most)  not_all_skipped

    Task(name, slug, tags, max_retries, retry_delay, retry_on, timeout, trigger, skip_on_upstream_skip, cache_for, \
cache_validator, cache_key, checkpoint, state_handlers, on_failure, log_stdout, result, target, task_run_name, nout)
    Task.run  Task.copy  Task.bind  Task.__call__  Task.map  Task.pipe  Task.set_upstream  Task.set_downstream
    Task.set_dependencies  Task.inputs  Task.outputs  Task.serialize  Task.deserialize  Task.logger
    Task.is_equal  Task.is_not_equal  Task.not_
    Task.or_  Task.__getitem__  Task.__iter__
    Parameter(name, default, required, tags)  DateTimeParameter
    Edge(upstream_task, downstream_task, key, mapped, flattened, flow)
    Flow(name, schedule, executor, tasks, edges, reference_tasks, state_handlers, on_failure, validate, result, \
terminal_state_handler)
    Flow.add_task  Flow.add_edge  Flow.chain  Flow.set_dependencies  Flow.update  Flow.replace  Flow.copy
    Flow.get_tasks  Flow.parameters  Flow.root_tasks  Flow.terminal_tasks  Flow.reference_tasks
    Flow.set_reference_tasks  Flow.edges_to  Flow.edges_from  Flow.all_upstream_edges  Flow.all_downstream_edges
    Flow.upstream_tasks  Flow.downstream_tasks  Flow.sorted_tasks  Flow.validate  Flow.run  Flow.serialize
    Flow.deserialize
    Flow.visualize  Flow.slugs  Flow.constants
    task  tags  apply_map  pause_task  defaults_from_attrs  unmapped  mapped  flatten  case  switch  merge
    resource_manager

    Runner(state_handlers)  Runner.initialize_run(state, context)
    Runner.call_runner_target_handlers(old_state, new_state)  Runner.handle_state_change(old_state, new_state)
    Runner._heartbeat  call_state_handlers
    TaskRunner(task, state_handlers, flow_result)
    TaskRunner.run(state, upstream_states, context, is_mapped_parent)  TaskRunner.initialize_run(state, context)
    TaskRunner.check_task_is_ready(state)  TaskRunner.check_task_reached_start_time(state)
    TaskRunner.check_upstream_finished(state, upstream_states)
    TaskRunner.check_upstream_skipped(state, upstream_states)  TaskRunner.load_results(state, upstream_states)
    TaskRunner.get_task_inputs(state, upstream_states)  TaskRunner.check_task_ready_to_map(state, upstream_states)
    TaskRunner.set_task_run_name(task_inputs)  TaskRunner.check_target(state, inputs)
    TaskRunner.check_task_is_cached(state, inputs)  TaskRunner.check_task_trigger(state, upstream_states)
    TaskRunner.set_task_to_running(state, inputs)  TaskRunner.get_task_run_state(state, inputs)
    TaskRunner.cache_result(state, inputs)  TaskRunner.check_for_retry(state, inputs)
    TaskRunner.check_task_is_looping(state, inputs, upstream_states)
    TaskRunnerInitializeResult(state, context)
    FlowRunner(flow, task_runner_cls, state_handlers)
    FlowRunner.run(state, task_states, return_tasks, parameters, task_runner_state_handlers, executor, context, \
task_contexts)
    FlowRunner.initialize_run(state, task_states, context, task_contexts, parameters)
    FlowRunner.check_flow_is_pending_or_running(state)  FlowRunner.check_flow_reached_start_time(state)
    FlowRunner.set_flow_to_running(state)
    FlowRunner.get_flow_run_state(state, task_states, task_contexts, return_tasks, task_runner_state_handlers, executor)
    FlowRunner.determine_final_state(state, key_states, return_states, terminal_states)
    FlowRunnerInitializeResult(state, task_states, context, task_contexts)

    CloudFlowRunner(flow, state_handlers)  CloudFlowRunner.call_runner_target_handlers(old_state, new_state)
    CloudFlowRunner.check_for_cancellation()
    CloudFlowRunner.initialize_run(state, task_states, context, task_contexts, parameters)
    CloudFlowRunner.run(state, task_states, return_tasks, parameters, task_runner_state_handlers, executor, context, \
task_contexts)
    CloudTaskRunner(task, state_handlers, flow_result)
    CloudTaskRunner.call_runner_target_handlers(old_state, new_state)
    CloudTaskRunner.check_task_is_cached(state, inputs)  CloudTaskRunner.initialize_run(state, context)
    CloudTaskRunner.load_results(state, upstream_states)
    CloudTaskRunner.run(state, upstream_states, context, is_mapped_parent)
    CloudTaskRunner.set_task_run_name(task_inputs)
    get_flow_run_info(flow_run_id)  get_task_run_info(flow_run_id, task_id, map_index)
    set_flow_run_state(flow_run_id, version, state)  set_task_run_state(task_run_id, version, state, cache_for)
    get_flow_run_state(flow_run_id)  get_task_run_state(task_run_id)
    get_latest_cached_states(task_id, cache_key, created_after)  set_task_run_name(task_run_id, name)
    FlowRunInfoResult  TaskRunInfoResult  ProjectInfo

    Result(value, location, serializer)  Result.read(location)  Result.write(value)  Result.exists(location)
    Result.format  Result.from_value(value)  Result.copy  Result.default_location  Result.__eq__
    ResultNotImplementedError  LocalResult(dir, validate_dir)  PrefectResult  ConstantResult  SecretResult
    PickleSerializer  JSONSerializer  DateTimeSerializer  CompressedSerializer

    never_use  duration_only  all_inputs  all_parameters  partial_inputs_only(validate_on)
    partial_parameters_only(validate_on)

    Executor.start()  Executor.submit(fn)  Executor.wait(futures)
    context
"""

CONTEXT_KEYS = """
    parameters caches config checkpointing resume logger map_index task_name task_full_name task_slug task_tags
    task_run_count task_loop_count task_loop_result task_run_name task_run_id task_run_version task_id flow_name flow_id
    flow_run_id flow_run_name flow_run_version project_id project_name running_with_backend scheduled_start_time date
    today yesterday tomorrow today_nodash yesterday_nodash tomorrow_nodash tags secrets raise_on_exception flow
"""


def names() -> list[str]:
    """Return the names of the list; two spaces or a line's end part them, as arguments have one."""
    return [name for line in NAMES.splitlines() for name in re.split(r"\s{2,}", line.strip()) if name]


def arguments(name: str) -> list[str] | None:
    inside = re.search(r"\((.*)\)", name)
    return None if inside is None else [one for one in re.split(r",\s*", inside[1]) if one]


def test_the_table_is_complete_and_has_nothing_twice() -> None:
    rows = [name for name, _, _ in ROWS]
    assert sorted(rows) == sorted(set(rows))
    assert set(rows) == set(names())


def resolved(module: str, attribute: str) -> Any:
    found: Any = importlib.import_module(module)
    first, *rest = attribute.split(".")
    found = getattr(found, first)
    for one in rest:
        if not hasattr(found, one) and isinstance(found, type):
            found = {Task: Task(name="t"), Flow: Flow("f"), Result: Result()}[found]
        found = getattr(found, one)
    return found


@pytest.mark.parametrize(("name", "module", "attribute"), ROWS, ids=[name.partition("(")[0] for name, _, _ in ROWS])
def test_each_name_is_where_the_table_says(name: str, module: str, attribute: str) -> None:
    assert module.startswith("flowloop.engine")
    assert attribute.split(".")[-1] == re.split(r"[.(]", name.partition("(")[0])[-1]
    found = resolved(module, attribute)
    wanted = arguments(name)
    if wanted is not None:
        parameters = [one for one in inspect.signature(found).parameters if one != "self"]
        assert parameters[: len(wanted)] == wanted


@pytest.mark.virtual_time
async def test_the_context_has_the_keys_that_the_table_names(tmp_path: Any) -> None:
    documented = set(re.findall(r"`(\w+)`", PAGE.partition("## The run context")[2].partition("\n## ")[0]))
    assert set(CONTEXT_KEYS.split()) <= documented
    seen: set[str] = set()

    @task(task_run_name="{task_name}")
    async def looks(n: int) -> None:
        if context.get("task_loop_count", 1) < 2:
            raise LOOP(result=1)
        seen.update(context.to_dict(), {"logger"} if context.logger else ())

    with Flow("keys") as flow:
        seen.update(context.to_dict(), {"flow"} if context.flow is flow else ())
        made = looks.map([1], task_args={"tags": {"a"}})
        one = looks(Parameter("p", default=1))
    backend = MemoryBackend(clock=VirtualClock())
    runner = CloudFlowRunner(flow, backend=backend, settings=Settings(home=str(tmp_path)))
    given = {"config": {}, "tags": set(), "secrets": {}}
    state = await runner.run(context=given, task_states={one: Resume()})
    assert state.is_successful(), {found.name: ended.message for found, ended in state.result.items()}
    assert made in state.result
    assert set(CONTEXT_KEYS.split()) - seen == set()


def test_every_one_of_the_thirty_has_its_test() -> None:
    tests = (ROOT / "tests" / "engine" / "test_the_thirty.py").read_text(encoding="utf-8")
    numbered = [int(number) for number in re.findall(r"^(?:async )?def test_(\d\d)_", tests, re.MULTILINE)]
    rows = [int(number) for number in re.findall(r"^\| (\d+) \|", PAGE.partition("## The thirty")[2], re.MULTILINE)]
    assert numbered == rows == list(range(1, 31))
