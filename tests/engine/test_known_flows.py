"""A flow that was registered is known again, for as long as nothing changes that its document tells of."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import pytest

from flowloop.engine import Flow, Parameter, task
from flowloop.engine.cache_validators import all_inputs
from flowloop.engine.cloud import creation
from flowloop.engine.schedules import IntervalSchedule
from flowloop.engine.task import Task
from flowloop.engine.triggers import all_finished


class Described(Task[..., int]):
    kind: type = int

    def run(self) -> int:
        return 1

    def outputs(self) -> type:
        return self.kind


@task(max_retries=1, retry_delay=[1, 2])
def add(x: int, y: int = 0) -> int:
    return x + y


def other(x: int, z: int = 0) -> int:
    return x + z


def build() -> Flow:
    with Flow("known") as flow:
        Described(name="described")()
        add(Parameter("x", default=[1, {"a": 2}]), 1)
    return flow


def named(flow: Flow, name: str) -> Task[..., object]:
    return next(one for one in flow.tasks if one.name == name)


CHANGES: dict[str, Callable[[Flow], object]] = {
    "the name of the flow": lambda flow: setattr(flow, "name", "renamed"),
    "a schedule": lambda flow: setattr(flow, "schedule", IntervalSchedule(interval=datetime.timedelta(hours=1))),
    "how it is run": lambda flow: setattr(flow, "run_config", {"image": "new"}),
    "another task": lambda flow: flow.add_task(Described(name="new")),
    "an edge": lambda flow: flow.add_edge(named(flow, "described"), named(flow, "add")),
    "the reference tasks": lambda flow: flow.set_reference_tasks([named(flow, "described")]),
    "the name of a task": lambda flow: setattr(named(flow, "add"), "name", "sum"),
    "a tag": lambda flow: named(flow, "add").tags.add("new"),
    "retries": lambda flow: setattr(named(flow, "add"), "max_retries", 2),
    "a delay, in its place": lambda flow: named(flow, "add").retry_delay.__setitem__(0, 5),  # type: ignore[union-attr]
    "a trigger": lambda flow: setattr(named(flow, "add"), "trigger", all_finished),
    "a cache": lambda flow: setattr(named(flow, "add"), "cache_validator", all_inputs),
    "a body": lambda flow: setattr(named(flow, "add"), "fn", other),
    "a type that a class tells of": lambda flow: setattr(named(flow, "described"), "kind", str),
    "a default": lambda flow: setattr(named(flow, "x"), "default", [2]),
    "a default, deep in its place": lambda flow: named(flow, "x").default[1].update(a=True),  # type: ignore[attr-defined]
    "a default of another type": lambda flow: setattr(named(flow, "x"), "default", [True, {"a": 2}]),
    "a secret": lambda flow: setattr(named(flow, "x"), "secret", True),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_document_tells_of_makes_another_flow(what: str) -> None:
    flow = build()
    before = creation._key_of(flow)
    CHANGES[what](flow)
    assert creation._key_of(flow) == creation._hash(flow, flow.serialize()) != before


def test_a_flow_that_stays_as_it_is_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = build()
    before = creation._key_of(flow)
    monkeypatch.setattr(Flow, "serialize", lambda self: pytest.fail("it was written again"))
    assert creation._key_of(flow) == before == creation._key_of(flow)
