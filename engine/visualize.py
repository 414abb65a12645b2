"""Drawing a flow: as SVG, in the DOT language of Graphviz, and in that of Mermaid."""

from __future__ import annotations

import html
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._layout import laid_out
from .errors import FlowloopError
from .parameter import Parameter
from .state import Mapped, State

if TYPE_CHECKING:
    from .flow import Flow
    from .task import Task

__all__ = ["Drawing", "dot", "mermaid", "svg", "visualize"]

_LETTER = 7.2
_LINE = 16
_PNG_ZOOM = 2


class Drawing(str):
    """A drawing as text, which a notebook shows as a picture.

    Args:
        - text: the text
        - draw: makes the picture, as SVG
    """

    __slots__ = ("_draw",)
    _draw: Callable[[], str]

    def __new__(cls, text: str, draw: Callable[[], str]) -> Drawing:
        """Keep how the picture is made until one is asked for."""
        made = super().__new__(cls, text)
        made._draw = draw
        return made

    @property
    def svg(self) -> str:
        """The picture, as SVG."""
        return self._draw()

    @property
    def png(self) -> bytes:
        """The picture, as PNG of twice its size.

        Raises:
            - FlowloopError: if the extra ``png`` is not installed
        """
        try:
            import resvg_py
        except ModuleNotFoundError as error:
            raise FlowloopError(
                "a picture as PNG needs an extra that is not installed: pip install 'flowloop[png]'; SVG needs none"
            ) from error
        return bytes(resvg_py.svg_to_bytes(svg_string=self._draw(), zoom=_PNG_ZOOM, background="#fff"))

    def _repr_html_(self) -> str:
        return self._draw()


def visualize(flow: Flow, flow_state: State | None = None, filename: str | None = None, format: str = "svg") -> Drawing:
    """Return a drawing of the graph, which a notebook shows as a picture; or also write it to a file.

    Args:
        - flow: the flow
        - flow_state: a state of this flow: colours each task by its state
        - filename: where to write it, without the ending
        - format: the ending: ``svg``, ``dot``, ``mermaid``, or one of the pictures that Graphviz draws, as ``png``. The
            text that is returned is in the language of Mermaid for that, else in that of Graphviz.

    Raises:
        - FlowloopError: if the picture cannot be drawn
    """
    text = mermaid(flow, flow_state) if format == "mermaid" else dot(flow, flow_state)
    drawing = Drawing(text, lambda: svg(flow, flow_state))
    if filename is not None:
        path = Path(f"{filename}.{format}")
        if format in ("dot", "mermaid"):
            path.write_text(text, encoding="utf-8")
        elif format == "svg":
            path.write_text(drawing.svg, encoding="utf-8")
        else:
            _draw_with_graphviz(flow, text, path, format)
    return drawing


def _draw_with_graphviz(flow: Flow, text: str, path: Path, format: str) -> None:
    program = shutil.which("dot")
    if program is None:
        raise FlowloopError(
            f"a drawing as {format} needs Graphviz, and its program 'dot' was not found: install it (apt install "
            "graphviz, brew install graphviz), or choose the format svg, dot or mermaid, which need nothing"
        )
    command = [program, f"-T{format}", "-o", str(path)]
    drawn = subprocess.run(command, input=text, text=True, capture_output=True, check=False)  # noqa: S603
    if drawn.returncode:
        raise FlowloopError(f"flow {flow.name!r} could not be drawn: {drawn.stderr.strip()}")


def dot(flow: Flow, flow_state: State | None = None) -> str:
    """Return a drawing of the graph in the DOT language.

    A mapped task is one box, whatever it is mapped over; with a state it says how many children ended how.

    Args:
        - flow: the flow
        - flow_state: a state of this flow: colours each task by its state
    """
    states = _states_in(flow_state)
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


def _states_in(flow_state: State | None) -> Mapping[Task[..., Any], State]:
    result = None if flow_state is None else flow_state.result
    return result if isinstance(result, Mapping) else {}


def _label(task: Task[..., Any], is_mapped: bool, state: State | None) -> list[str]:
    name = f"{task.name} <mapped>" if is_mapped else task.name
    return [name] if state is None else [name, _described(state)]


# -- Mermaid ---------------------------------------------------------------------------------------------


def mermaid(flow: Flow, flow_state: State | None = None) -> str:
    """Return a drawing of the graph in the language of Mermaid.

    Args:
        - flow: the flow
        - flow_state: a state of this flow: colours each task by its state
    """
    states = _states_in(flow_state)
    mapped = {edge.downstream_task for edge in flow.edges if edge.mapped}
    names = {task: f"task{number}" for number, task in enumerate(flow.sorted_tasks(), 1)}
    lines = ["flowchart TD"]
    for task, name in names.items():
        opening, closing = ("[", "]") if task in mapped else ("{{", "}}") if isinstance(task, Parameter) else ("(", ")")
        label = "<br/>".join(_entities(line) for line in _label(task, task in mapped, states.get(task)))
        lines.append(f'  {name}{opening}"{label}"{closing}')
    for edge in flow.ordered_edges():
        arrow = "-.->" if edge.mapped else "-->"
        label = f'|"{_entities(edge.key)}"|' if edge.key else ""
        lines.append(f"  {names[edge.upstream_task]} {arrow}{label} {names[edge.downstream_task]}")
    lines += [f"  style {name} fill:{_color(states[task])}80" for task, name in names.items() if task in states]
    return "\n".join([*lines, ""])


def _entities(text: str) -> str:
    """Return a text for a quoted label: what means something in there is written by its number."""
    return "".join(one if one.isalnum() or one in " _-.,:()[]=/+*" else f"#{ord(one)};" for one in text)


# -- SVG -------------------------------------------------------------------------------------------------


def svg(flow: Flow, flow_state: State | None = None) -> str:
    """Return a drawing of the graph as SVG.

    Args:
        - flow: the flow
        - flow_state: a state of this flow: colours each task by its state
    """
    states = _states_in(flow_state)
    mapped = {edge.downstream_task for edge in flow.edges if edge.mapped}
    tasks = {flow.slugs[task]: task for task in flow.sorted_tasks()}
    labels = {slug: _label(task, task in mapped, states.get(task)) for slug, task in tasks.items()}
    widths = {slug: max(map(len, lines)) * _LETTER + 28 for slug, lines in labels.items()}
    edges = flow.ordered_edges()
    layout = laid_out(widths, [(flow.slugs[edge.upstream_task], flow.slugs[edge.downstream_task]) for edge in edges])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {layout.width:.0f} {layout.height:.0f}" '
        f'width="{layout.width:.0f}" height="{layout.height:.0f}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{html.escape(flow.name)}</title>",
        '<defs><marker id="flowloop-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#777"/></marker></defs>',
    ]
    for edge, route in zip(edges, layout.routes, strict=True):
        below = len(labels[flow.slugs[edge.downstream_task]]) * _LINE / 2 + 8
        parts.append(_line(route, below, edge.key, dashed=edge.mapped))
    for slug, task in tasks.items():
        fill = f"{_color(states[task])}80" if task in states else "#f4f4f4"
        corners = 2 if task in mapped else 12
        parts.append(_box(labels[slug], layout.places[slug], widths[slug], fill, corners, isinstance(task, Parameter)))
    return "\n".join([*parts, "</svg>"])


def _line(route: list[tuple[float, float]], below: float, label: str | None, *, dashed: bool) -> str:
    (x, y), *rest = route
    path = [f"M{x:.1f} {y:.1f}"]
    for number, (next_x, next_y) in enumerate(rest, 1):
        end = next_y - below if number == len(rest) else next_y
        middle = (y + end) / 2
        path.append(f"C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {end:.1f}")
        x, y = next_x, end
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    drawn = f'<path d="{"".join(path)}" fill="none" stroke="#777"{dashes} marker-end="url(#flowloop-arrow)"/>'
    if not label:
        return drawn
    (from_x, from_y), (to_x, to_y) = route[-2:]
    at = f'x="{(from_x + to_x) / 2 + 4:.1f}" y="{(from_y + to_y) / 2:.1f}"'
    return f'{drawn}<text {at} fill="#777" font-size="10">{html.escape(label)}</text>'


def _box(
    lines: list[str], middle: tuple[float, float], width: float, fill: str, corners: int, is_parameter: bool
) -> str:
    x, y = middle
    height = len(lines) * _LINE + 14
    stroke = ' stroke-width="2"' if is_parameter else ""
    parts = [
        f'<rect x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height}" '
        f'rx="{corners}" fill="#fff"/>'
        f'<rect x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height}" '
        f'rx="{corners}" fill="{fill}" stroke="#555"{stroke}/>'
    ]
    for number, line in enumerate(lines):
        baseline = y + (number - (len(lines) - 1) / 2) * _LINE + 4
        parts.append(f'<text x="{x:.1f}" y="{baseline:.1f}" text-anchor="middle">{html.escape(line)}</text>')
    return "".join(parts)
