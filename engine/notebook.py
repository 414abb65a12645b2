"""How flows, states, results and progress look in a notebook: as HTML."""

from __future__ import annotations

import html
from collections import Counter
from typing import TYPE_CHECKING, Any

from .masking import masked
from .state import Mapped, State
from .task_states import TaskStates

if TYPE_CHECKING:
    from .flow import Flow
    from .result import Result
    from .watch import Progress

__all__ = ["flow_html", "progress_html", "result_html", "state_html"]

_MOST_ROWS = 100
_LONGEST_VALUE = 500
_BRIGHT = 140


def flow_html(flow: Flow) -> str:
    """Return a flow: its name, and its graph as a picture."""
    from .visualize import svg

    counts = f"{len(flow.tasks)} tasks, {len(flow.edges)} edges"
    return f"<div><b>{_escaped(flow.name)}</b> ({counts})<br/>{svg(flow)}</div>"


def state_html(state: State) -> str:
    """Return a state; one of a flow run with a table of the states of its tasks."""
    parts = [f"<div>{_chip(state)} {_escaped(state.message)}{_traceback(state)}"]
    if isinstance(state.result, TaskStates):
        parts.append(_table(state.result))
    elif isinstance(state, Mapped) and state.map_states:
        parts.append(f"<br/>{_escaped(_children(state))}")
    return "".join([*parts, "</div>"])


def _table(states: TaskStates) -> str:
    rows = [_row(states.slug(task), state) for task, state in list(states.items())[:_MOST_ROWS]]
    if len(states) > _MOST_ROWS:
        rows.append(f"<tr><td colspan=3>and {len(states) - _MOST_ROWS} more</td></tr>")
    return f"<table><tr><th>task</th><th>state</th><th>message</th></tr>{''.join(rows)}</table>"


def _row(name: str, state: State) -> str:
    told = _children(state) if isinstance(state, Mapped) and state.map_states else state.message
    failed = (
        next((one for one in state.map_states if one is not None and one.is_failed()), state)
        if isinstance(state, Mapped)
        else state
    )
    return f"<tr><td>{_escaped(name)}</td><td>{_chip(state)}</td><td>{_escaped(told)}{_traceback(failed)}</td></tr>"


def _children(state: Mapped) -> str:
    counts = Counter("None" if child is None else type(child).__name__ for child in state.map_states)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _chip(state: State) -> str:
    style = f"background:{state.color};color:{_ink(state.color)};padding:1px 6px;border-radius:8px"
    return f'<span style="{style}">{type(state).__name__}</span>'


def _ink(color: str) -> str:
    """Return the colour of a text that can be read on this one."""
    try:
        red, green, blue = bytes.fromhex(color.removeprefix("#"))
    except ValueError:  # a name: whoever chose it has seen it
        return "#fff"
    return "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > _BRIGHT else "#fff"


def _traceback(state: State) -> str:
    if not state.traceback:
        return ""
    return f"<details><summary>traceback</summary><pre>{_escaped(state.traceback)}</pre></details>"


def result_html(result: Result) -> str:
    """Return a result: its kind, where it is stored, and its value in short."""
    from ._run.net import shown

    place = "" if result.location is None else f" at <code>{_escaped(result.location)}</code>"
    value = masked(shown(result.value))
    cut = value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}…"
    return f"<div><b>{type(result).__name__}</b>{place}<pre>{_escaped(cut)}</pre></div>"


def progress_html(progress: Progress) -> str:
    """Return how far a flow run is, as a bar."""
    part = 100 * progress.finished / progress.total if progress.total else 0
    bar = '<div style="background:#e0e0e0;width:300px;height:10px;border-radius:5px">'
    done = f'<div style="background:#28a745;width:{part:.0f}%;height:10px;border-radius:5px"></div></div>'
    return f"<div>{bar}{done}{_escaped(progress.describe())}</div>"


def _escaped(text: Any) -> str:
    return "" if text is None else html.escape(str(text))
