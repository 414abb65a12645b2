"""Drawings of flows."""

import os
import shutil
import stat

import pytest

from flowloop.engine import Flow, FlowRunner, Parameter, task
from flowloop.engine.errors import FlowloopError
from flowloop.engine.state import Failed, Mapped, Retrying, Success
from flowloop.engine.visualize import visualize


def drawn_flow():
    with Flow('a "quoted" flow') as flow:
        numbers = Parameter("numbers", default=[1, 2])
        doubled = task(lambda n: 2 * n, name="double").map(n=numbers)
        task(lambda ns: sum(ns), name='"total"')(ns=doubled)
    return flow


def test_the_drawing_has_every_task_and_edge_once():
    text = drawn_flow().visualize()
    assert text.splitlines() == [
        'digraph "a \\"quoted\\" flow" {',
        '  node [fontname="sans-serif"];',
        '  edge [fontname="sans-serif"];',
        '  "numbers" [label="numbers", shape="octagon"];',
        '  "double-1" [label="double <mapped>", shape="box"];',
        '  "\\"total\\"-1" [label="\\"total\\"", shape="ellipse"];',
        '  "numbers" -> "double-1" [label="n", style="dashed"];',
        '  "double-1" -> "\\"total\\"-1" [label="ns"];',
        "}",
    ]


async def test_states_give_the_colours():
    flow = drawn_flow()
    state = await FlowRunner(flow).run()
    text = flow.visualize(state)
    assert f'label="numbers\\nSuccess", shape="octagon", style="filled", fillcolor="{Success.color}80"' in text
    assert 'label="double <mapped>\\n2 Success"' in text
    (doubled,) = flow.get_tasks(name="double")
    state.result[doubled] = Mapped(map_states=[Success(), Failed(), Retrying(), Success()])
    text = flow.visualize(state)
    assert f'1 Failed, 1 Retrying, 2 Success", shape="box", style="filled", fillcolor="{Failed.color}80"' in text


def test_a_state_without_states_of_tasks_colours_nothing():
    flow = drawn_flow()
    assert flow.visualize(Failed(result=ValueError())) == flow.visualize()


def test_without_graphviz_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FlowloopError, match=r"'dot' was not found: install it"):
        drawn_flow().visualize(filename=str(tmp_path / "flow"))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A program ``dot`` that writes what it was given, and refuses one format."""
    program = tmp_path / "dot"
    program.write_text(
        '#!/bin/sh\nif [ "$1" = "-Todd" ]; then echo "no odd format" >&2; exit 1; fi\n(echo "$1"; cat) > "$3"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def test_a_picture_is_drawn_by_dot(tmp_path, stand_in):
    text = drawn_flow().visualize(filename=str(tmp_path / "flow"), format="png")
    assert (tmp_path / "flow.png").read_text() == f"-Tpng\n{text}"
    with pytest.raises(FlowloopError, match="no odd format"):
        drawn_flow().visualize(filename=str(tmp_path / "flow"), format="odd")


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_understands_the_drawing(tmp_path):
    visualize(drawn_flow(), filename=str(tmp_path / "flow"))
    assert "<svg" in (tmp_path / "flow.svg").read_text()
