"""Drawings of flows."""

import itertools
import os
import shutil
import stat
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloop.engine import Flow, FlowRunner, Parameter, task
from flowloop.engine._layout import laid_out
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


def test_without_graphviz_svg_and_text_are_written_and_the_error_for_others_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for ending in ("svg", "dot", "mermaid"):
        drawn_flow().visualize(filename=str(tmp_path / "flow"), format=ending)
    ElementTree.parse(tmp_path / "flow.svg")
    assert (tmp_path / "flow.dot").read_text() == drawn_flow().visualize()
    assert (tmp_path / "flow.mermaid").read_text() == drawn_flow().visualize(format="mermaid")
    with pytest.raises(FlowloopError, match=r"'dot' was not found: install it .* or choose the format svg"):
        drawn_flow().visualize(filename=str(tmp_path / "flow"), format="png")


def test_mermaid_has_every_task_and_edge_once():
    assert drawn_flow().visualize(format="mermaid").splitlines() == [
        "flowchart TD",
        '  task1{{"numbers"}}',
        '  task2["double #60;mapped#62;"]',
        '  task3("#34;total#34;")',
        '  task1 -.->|"n"| task2',
        '  task2 -->|"ns"| task3',
    ]


async def test_the_picture_has_every_task_with_its_state_and_escapes_names():
    flow = drawn_flow()
    picture = ElementTree.fromstring(flow.visualize(await FlowRunner(flow).run()).svg)
    texts = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"numbers", "double <mapped>", "2 Success", '"total"', "n", "ns"} <= set(texts)
    fills = {each.get("fill") for each in picture.iter("{http://www.w3.org/2000/svg}rect")}
    assert f"{Success.color}80" in fills
    assert flow.visualize()._repr_html_().startswith("<svg ")


@given(st.data())
def test_a_layout_puts_everything_below_what_it_waits_for_and_nothing_over_another(data):
    count = data.draw(st.integers(1, 12))
    names = [f"n{number}" for number in range(count)]
    pairs = [(one, two) for at, one in enumerate(names) for two in names[at + 1 :]]
    edges = data.draw(st.lists(st.sampled_from(pairs), max_size=20)) if pairs else []
    widths = {name: data.draw(st.floats(10, 200)) for name in names}
    layout = laid_out(widths, edges)
    for one, two in edges:
        assert layout.places[one][1] < layout.places[two][1]
    for (first, (x, y)), (second, (other_x, other_y)) in itertools.combinations(layout.places.items(), 2):
        assert y != other_y or abs(x - other_x) >= (widths[first] + widths[second]) / 2 - 1e-6
    for name, (x, y) in layout.places.items():
        assert widths[name] / 2 <= x <= layout.width - widths[name] / 2
        assert 0 < y < layout.height
    for (one, two), route in zip(edges, layout.routes, strict=True):
        assert (route[0], route[-1]) == (layout.places[one], layout.places[two])


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
    visualize(drawn_flow(), filename=str(tmp_path / "flow"), format="pdf")
    assert (tmp_path / "flow.pdf").read_bytes().startswith(b"%PDF")
