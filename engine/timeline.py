"""When the task runs of a flow run went on, as a picture."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .errors import FlowloopError
from .state import Mapped, State
from .task_states import TaskStates
from .visualize import Drawing

__all__ = ["timeline"]

_ROW = 18
_BAR = 12
_WIDTH = 640
_LETTER = 7.0
_TICKS = 6


class _Bar(NamedTuple):
    name: str
    state: State
    begin: float
    end: float


def timeline(state: State, filename: str | None = None) -> Drawing:
    """Return when the task runs of a flow run went on, as a picture that a notebook shows.

    Args:
        - state: the state of a flow run, as its runner returned it
        - filename: where to write it, with the ending ``.svg``, or ``.png`` with the extra ``png``

    Raises:
        - FlowloopError: for a state whose task runs went on elsewhere, for another format, or without the extra
    """
    bars = sorted(_bars(state), key=lambda bar: (bar.begin, bar.end))
    if not bars:
        raise FlowloopError("there is no timeline: this is not the state of a flow run that went on in this process")
    text = _picture(bars)
    drawing = Drawing(text, lambda: text)
    if filename is not None:
        if not filename.endswith((".svg", ".png")):
            raise FlowloopError(
                f"a timeline is written as SVG or PNG: end the name with one of these, not {filename!r}"
            )
        Path(filename).write_bytes(drawing.png if filename.endswith(".png") else text.encode())
    return drawing


def _bars(state: State) -> Iterator[_Bar]:
    states = state.result
    if not isinstance(states, TaskStates):
        return
    for task, ended in states.items():
        if (times := states.times.get((task, -1))) is not None and not isinstance(ended, Mapped):
            yield _Bar(states.slug(task), ended, *times)
        for index, child in enumerate(ended.map_states if isinstance(ended, Mapped) else ()):
            if child is not None and (times := states.times.get((task, index))) is not None:
                yield _Bar(f"{states.slug(task)}[{index}]", child, *times)


def _picture(bars: Sequence[_Bar]) -> str:
    begin, end = min(bar.begin for bar in bars), max(bar.end for bar in bars)
    scale = _WIDTH / max(end - begin, 1e-9)
    left = max(len(bar.name) for bar in bars) * _LETTER + 16
    width, height = left + _WIDTH + 60, len(bars) * _ROW + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" '
        f'height="{height}" font-family="sans-serif" font-size="11" role="img"><title>timeline</title>'
    ]
    for seconds in _ticks(end - begin):
        x = left + seconds * scale
        parts.append(
            f'<path d="M{x:.1f} 20V{height - 12}" stroke="#ddd"/><text x="{x:.1f}" y="14" text-anchor="middle" '
            f'fill="#777">{seconds:g} s</text>'
        )
    for number, bar in enumerate(bars):
        y = 24 + number * _ROW
        x, length = left + (bar.begin - begin) * scale, max((bar.end - bar.begin) * scale, 1.0)
        told = f"{bar.name} {type(bar.state).__name__}, {bar.end - bar.begin:.3g} s"
        parts.append(
            f'<text x="{left - 8:.1f}" y="{y + _BAR - 2}" text-anchor="end" fill="#777">{html.escape(bar.name)}</text>'
            f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{_BAR}" rx="2" fill="{bar.state.color}">'
            f"<title>{html.escape(told)}</title></rect>"
        )
    return "\n".join([*parts, "</svg>"])


def _ticks(length: float) -> list[float]:
    """Return round moments from 0 on, at most so many that their texts have room."""
    digits = math.floor(math.log10(max(length, 1e-6) / _TICKS))
    step = next(factor for factor in (1, 2, 5, 10, 20) if factor * 10.0**digits * _TICKS >= length)
    return [round(number * step * 10.0**digits, 12) for number in range(int(length / (step * 10.0**digits)) + 1)]
