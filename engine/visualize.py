"""Drawing a flow, in the DOT language of Graphviz."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import FlowloopError
from .parameter import Parameter
from .state import Mapped, State

if TYPE_CHECKING:
    from .flow import Flow
    from .task import Task

__all__ = ["dot", "visualize"]


def visualize(flow: Flow, flow_state: State | None = None, filename: str | None = None, format: str = "svg") -> str:
    """Return a drawing of the graph in the DOT language, or also write it as a picture.

    Args:
        - flow: the flow
        - flow_state: a state of this flow: colours each task by its state
        - filename: where to write a picture, without the ending; needs Graphviz
        - format: the ending and kind of the picture

    Raises:
        - FlowloopError: if the picture cannot be drawn
    """
    text = dot(flow, flow_state)
    if filename is not None:
        program = shutil.which("dot")
        if program is None:
            raise FlowloopError(
                "drawing a picture needs Graphviz, and its program 'dot' was not found: install it "
                "(apt install graphviz, brew install graphviz), or call visualize() without a filename for the DOT text"
            )
        command = [program, f"-T{format}", "-o", f"{filename}.{format}"]
        drawn = subprocess.run(command, input=text, text=True, capture_output=True, check=False)  # noqa: S603
        if drawn.returncode:
            raise FlowloopError(f"flow {flow.name!r} could not be drawn: {drawn.stderr.strip()}")
    return text


def dot(flow: Flow, flow_state: State | None = None) -> str:
    """Return a drawing of the graph in the DOT language.

    A mapped task is one box, whatever it is mapped over; with a state it says how many children ended how.

    Args:
        - flow: the flow
        - flow_state: a state of this flow: colours each task by its state
    """
    result = None if flow_state is None else flow_state.result
    states: Mapping[Task[..., Any], State] = result if isinstance(result, Mapping) else {}
    mapped = {edge.downstream_task for edge in flow.edges if edge.mapped}
    lines = [f"digraph {_quoted(flow.name)} {{", '  node [fontname="sans-serif"];', '  edge [fontname="sans-serif"];']
    lines += [
        f"  {_quoted(flow.slugs[task])} [{_node(task, task in mapped, states.get(task))}];"
        for task in flow.sorted_tasks()
    ]
    for edge in flow.ordered_edges():
        ends = f"{_quoted(flow.slugs[edge.upstream_task])} -> {_quoted(flow.slugs[edge.downstream_task])}"
        attributes = {"label": edge.key} if edge.key else {}
        attributes |= {"style": "dashed"} if edge.mapped else {}
        lines.append(f"  {ends} [{_listed(attributes)}];" if attributes else f"  {ends};")
    return "\n".join([*lines, "}", ""])


def _node(task: Task[..., Any], is_mapped: bool, state: State | None) -> str:
    label = f"{task.name} <mapped>" if is_mapped else task.name
    shape = "box" if is_mapped else "octagon" if isinstance(task, Parameter) else "ellipse"
    attributes = {"label": label, "shape": shape}
    if state is not None:
        attributes |= {"label": f"{label}\n{_described(state)}", "style": "filled", "fillcolor": f"{_color(state)}80"}
    return _listed(attributes)


def _listed(attributes: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={_quoted(value)}" for name, value in attributes.items())


def _described(state: State) -> str:
    if isinstance(state, Mapped) and state.map_states:
        counts = Counter("None" if child is None else type(child).__name__ for child in state.map_states)
        return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return type(state).__name__


def _color(state: State) -> str:
    # a mapped task looks as its children do, the worst of them first
    children: list[State] = (
        [child for child in state.map_states if child is not None] if isinstance(state, Mapped) else []
    )
    for test in (State.is_failed, State.is_running, State.is_pending):
        for child in children:
            if test(child):
                return child.color
    return state.color


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
