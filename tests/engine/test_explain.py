"""A failure says where it came from: in the log, in the state, in the state of the flow run; and no secret is told."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from flowloop.backends.memory import MemoryBackend
from flowloop.engine import Flow, FlowRunner, Parameter, Secret, context, task
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.explain import brief, explained
from flowloop.engine.masking import Mask
from flowloop.engine.settings import Settings
from flowloop.engine.signals import FAIL
from flowloop.engine.state import Failed, State
from flowloop.engine.triggers import all_finished

pytestmark = pytest.mark.virtual_time

HERE = Path(__file__).name


@task
async def row(n: int) -> int:
    if n == 4:
        raise ValueError(f"row {n} is odd")
    return n


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- one attempt ---------------------------------------------------------------------------------------


async def test_a_failed_child_says_its_index_its_attempt_and_the_line(caplog: pytest.LogCaptureFixture) -> None:
    with Flow("rows") as flow:
        rows = row.map([3, 4])
    state = await FlowRunner(flow).run()
    (line,) = told(caplog)
    assert line.startswith(
        "row[1]: attempt 1 of 1 failed: ValueError: row 4 is odd\nTraceback (most recent call last):\n"
    )
    assert f'{HERE}", line ' in line
    assert 'raise ValueError(f"row {n} is odd")' in line
    child = state.result[rows].map_states[1]
    assert line.endswith(child.traceback)
    assert child.result.__traceback__ is not None
    assert state.result[rows].map_states[0].traceback is None


async def test_every_attempt_is_told_once_and_says_when_the_next_one_is(caplog: pytest.LogCaptureFixture) -> None:
    @task(max_retries=2, retry_delay=1)
    def never() -> None:
        raise OSError("away")

    with Flow("retried") as flow:
        never()
    await FlowRunner(flow).run()
    assert [line.partition("\n")[0] for line in told(caplog)] == [
        "never: attempt 1 of 3 failed, next in 1 s: OSError: away",
        "never: attempt 2 of 3 failed, next in 1 s: OSError: away",
        "never: attempt 3 of 3 failed: OSError: away",
    ]
    assert all("in never" in line for line in told(caplog))


async def test_an_error_that_is_not_retried_is_told_as_the_last(caplog: pytest.LogCaptureFixture) -> None:
    @task(max_retries=2, retry_delay=1, retry_on=OSError)
    def wrong() -> None:
        raise KeyError("missing")

    with Flow("once") as flow:
        wrong()
    await FlowRunner(flow).run()
    (line,) = told(caplog)
    assert line.startswith("wrong: attempt 1 of 3 failed: KeyError: 'missing'\n")


def _calls_back(*_: Any) -> Any:
    raise LookupError("from a callback")


def _signals() -> None:
    raise FAIL("by a signal")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: task(_signals)(), "Failed: by a signal"),
        (lambda: task(lambda: 1, trigger=_calls_back)(), "LookupError: from a callback"),
        (lambda: task(lambda: 1, state_handlers=[_calls_back])(), "LookupError: from a callback"),
    ],
    ids=["signal", "trigger", "handler"],
)
async def test_whatever_the_user_wrote_is_named_with_its_line(
    caplog: pytest.LogCaptureFixture, made: Any, reason: str
) -> None:
    with Flow("raises") as flow:
        made()
    state = await FlowRunner(flow).run()
    (line,) = told(caplog)
    assert reason in line.partition("\n")[0]
    assert HERE in line
    assert "task_runner.py" not in line
    (ended,) = state.result.values()
    assert HERE in ended.traceback


def _deep(n: int) -> None:
    if n:
        _deep(n - 1)
    raise RecursionError("x" * 50_000)


def test_a_traceback_is_bounded_and_says_so() -> None:
    with pytest.raises(RecursionError) as caught:
        _deep(200)
    text = explained(caught.value)
    assert len(text) < 10_100
    assert "characters are left out" in text
    assert text.startswith("Traceback (most recent call last):\n")
    assert "in test_a_traceback_is_bounded_and_says_so" in text


def test_causes_and_groups_are_told_too() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ExceptionGroup("both", [ValueError("one"), TypeError("two")]) from error
    except ExceptionGroup as group:
        text = explained(group)
    for part in ("KeyError: 'first'", "direct cause", "ValueError: one", "TypeError: two", "both (2 sub-exceptions)"):
        assert part in text


# -- a flow run ----------------------------------------------------------------------------------------


async def test_a_failed_flow_run_says_which_tasks_failed_and_why() -> None:
    @task
    def load(rows: list[int]) -> int:
        return sum(rows)

    @task
    def fine() -> None:
        pass

    with Flow("etl") as flow:
        rows = row.map([0, 1, 2, 3, 4], task_args={"name": "transform"})
        load(rows)
        fine()
    state = await FlowRunner(flow).run()
    assert repr(state) == (
        '<Failed: "1 of 2 reference tasks failed: load (after transform[4]: ValueError: row 4 is odd)">'
    )
    assert state.result[rows].message == "5 mapped children: 4 Success, 1 Failed"
    flow.set_reference_tasks([rows])
    state = await FlowRunner(flow).run()
    assert state.message == "1 of 1 reference tasks failed: transform[4] (ValueError: row 4 is odd)"


def test_a_reason_that_was_recorded_elsewhere_is_told_without_what_all_of_them_say() -> None:
    assert brief(Failed("Error during execution of task: ValueError('row 4')")) == "ValueError('row 4')"
    assert brief(Failed("no rows")) == "Failed: no rows"


async def test_many_failures_are_named_up_to_a_few() -> None:
    with Flow("many") as flow:
        row.map([4] * 30)
        row(4)
    state = await FlowRunner(flow).run()
    assert state.message is not None
    assert state.message.startswith("2 of 2 reference tasks failed: ")
    assert state.message.endswith(" and 28 more")


async def test_tasks_of_one_name_are_told_apart() -> None:
    with Flow("twins") as flow:
        row(1)
        row(4)
    state = await FlowRunner(flow).run()
    assert state.message == "1 of 2 reference tasks failed: row-2 (ValueError: row 4 is odd)"


async def test_a_recorded_run_that_fails_warns_once_and_records_its_traceback(
    caplog: pytest.LogCaptureFixture, memory: MemoryBackend, settings: Settings
) -> None:
    with Flow("recorded") as flow:
        row(4)
    runner = CloudFlowRunner(flow, backend=memory, settings=settings)
    await runner.run()
    assert runner.flow_run_id is not None
    info = await memory.get_flow_run_info(runner.flow_run_id)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.name == "flowloop"
    assert runner.flow_run_id in warning.getMessage()
    assert "row (ValueError: row 4 is odd)" in warning.getMessage()
    (recorded,) = [each.state for each in info.task_runs if each.task_slug == "row-1"]
    assert HERE in (recorded.traceback or "")


async def test_where_nobody_set_up_logging_a_recorded_failure_reaches_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, memory: MemoryBackend, settings: Settings
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with Flow("unheard") as flow:
        row(4)
    await CloudFlowRunner(flow, backend=memory, settings=settings).run()
    written = capsys.readouterr().err
    assert written.count("row: attempt 1 of 1 failed: ValueError: row 4 is odd\nTraceback") == 1
    assert written.count("of 'unheard' failed: 1 of 1 reference tasks failed") == 1


# -- secrets -------------------------------------------------------------------------------------------

TOKEN = 'to"ken-5f0c'


@task
def send(token: str, key: str) -> None:
    context.logger.warning("sending %s", token)
    raise ConnectionError(f"https://host/?token={token} {json.dumps([token])} {key!r}")


async def test_secrets_are_masked_in_logs_messages_and_tracebacks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWLOOP_SECRET__TOKEN", TOKEN)
    with Flow("sends") as flow:
        sent = send(Secret("TOKEN"), Parameter("key", secret=True))
    state = await FlowRunner(flow).run(parameters={"key": "k3y"})
    ended: State = state.result[sent]
    assert ended.traceback is not None
    for text in (*told(caplog), ended.traceback, ended.message, state.message):
        assert "5f0c" not in text
        assert "k3y" not in text
    assert "sending ***" in told(caplog)
    assert "https://host/?token=***" in ended.traceback


async def test_what_one_run_hides_another_one_does_not() -> None:
    @task
    def says() -> None:
        raise ValueError("plainly")

    with Flow("says") as flow:
        said = says()
    first = await FlowRunner(flow).run(context={"secrets": {"one": "plainly"}})
    second = await FlowRunner(flow).run()
    assert first.result[said].message == "Error during execution of task: ValueError('***')"
    assert second.result[said].message == "Error during execution of task: ValueError('plainly')"


@pytest.mark.parametrize(
    ("secret", "text", "shown"),
    [
        ("hunter2", "hunter2 and xhunter2x", "*** and x***x"),
        ("ab", "ab cab ab1", "*** cab ab1"),
        (1234567, "at 1234567", "at ***"),
        ({"user": "me@home", "parts": ["s3cret"]}, "me@home s3cret", "*** ***"),
        (b"bytes!", "b'bytes!'", "b'***'"),
        ("line one\nline two", "'line one\\nline two' / line two", "'***' / ***"),
        ("a/b c", "a%2Fb%20c", "***"),
        ("", "nothing", "nothing"),
        (None, "None", "None"),
        (True, "True", "True"),
    ],
)
def test_every_form_of_a_value_is_hidden(secret: object, text: str, shown: str) -> None:
    mask = Mask()
    mask.add(secret)
    assert mask.masked(text) == shown


async def test_a_trigger_that_accepts_failures_lets_the_flow_succeed(caplog: pytest.LogCaptureFixture) -> None:
    with Flow("tolerant") as flow:
        task(lambda: "done", name="last", trigger=all_finished)(upstream_tasks=[row(4)])
    state = await FlowRunner(flow).run()
    assert state.is_successful()
    assert len(told(caplog)) == 1


# -- looking into a state ------------------------------------------------------------------------------


async def test_the_states_of_tasks_are_found_by_task_slug_and_child() -> None:
    with Flow("looked into") as flow:
        rows = row.map([1, 2])
        one = row(3)
    state = await FlowRunner(flow).run()
    assert state[one] is state["row-2"] is state.result[one]
    assert state[rows, 1].result == state["row-1", -1].result == 2
    for key, reason in {
        "row": r"several tasks are called 'row'; there are: Constant\[list\]-1, row-1, row-2",
        "away": "there is no state of a task 'away'",
        ("row-1", 2): "has 2 mapped children, and none is 2",
        ("row-2", 0): "has 0 mapped children",
    }.items():
        with pytest.raises(KeyError, match=reason):
            state[key]
    with pytest.raises(KeyError, match="it is not that of a flow run"):
        state[one]["row"]


async def test_begin_and_end_of_each_run_are_told_at_debug_alone(caplog: pytest.LogCaptureFixture) -> None:
    with Flow("quiet") as flow:
        row.map([1])
    await FlowRunner(flow).run()
    assert not caplog.records
    with caplog.at_level(logging.DEBUG, "flowloop"):
        await FlowRunner(flow).run()
    assert [record.getMessage() for record in caplog.records if record.name == "flowloop.runs"][-4:] == [
        "row begins",
        "row ends as Mapped",
        "row[0] begins",
        "row[0] ends as Success",
    ]
