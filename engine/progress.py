"""Showing how far a flow run is while it goes on: as a bar in a notebook or in a terminal."""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TextIO

import anyio

from .notebook import progress_html
from .watch import Progress

__all__ = ["shown_progress"]

_INTERVAL = 0.2
_WIDTH = 30


@asynccontextmanager
async def shown_progress(progress: Callable[[], Progress], stream: TextIO | None = None) -> AsyncIterator[None]:
    """Show how far a flow run is for as long as the block goes on, and how far it came.

    Args:
        - progress: tells how far it is
        - stream: where to write outside of a notebook; stderr if None. What is no terminal gets one line in the end.
    """
    show, conclude = _in_notebook() or _on_stream(sys.stderr if stream is None else stream)

    async def follow() -> None:
        while True:
            show(progress())
            await anyio.sleep(_INTERVAL)

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        try:
            yield
        finally:
            group.cancel_scope.cancel()
            conclude(progress())


_Show = Callable[[Progress], None]


def _in_notebook() -> tuple[_Show, _Show] | None:
    """Return what shows progress in the notebook that this runs in; None where it runs in none."""
    shells: Any = sys.modules.get("IPython")
    shell = None if shells is None else shells.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    shown: Any = importlib.import_module("IPython.display")
    handle = shown.display(shown.HTML(""), display_id=True)

    def show(progress: Progress) -> None:
        handle.update(shown.HTML(progress_html(progress)))

    return show, show


def _on_stream(stream: TextIO) -> tuple[_Show, _Show]:
    if not stream.isatty():
        return lambda _: None, lambda progress: print(progress.describe(), file=stream)

    def show(progress: Progress) -> None:
        done = round(_WIDTH * progress.finished / progress.total) if progress.total else 0
        stream.write(f"\r\x1b[K[{'#' * done}{'-' * (_WIDTH - done)}] {progress.describe()}")
        stream.flush()

    def conclude(progress: Progress) -> None:
        show(progress)
        stream.write("\n")
        stream.flush()

    return show, conclude
