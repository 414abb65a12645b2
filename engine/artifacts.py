"""Artifacts: what a body leaves for people to look at, beside its result."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from .context import values

__all__ = ["Artifact", "Artifacts", "artifacts", "collecting"]

_log = logging.getLogger("flowloop.artifacts")


class Artifact(msgspec.Struct, frozen=True):
    """What was left.

    Args:
        - flow_run_id, task_run_id: by which run
        - kind: ``"markdown"``, ``"link"``, ``"table"`` or ``"progress"``
        - data: the thing itself, as a JSON document
        - name: one that was left under the same name before is replaced
    """

    flow_run_id: str
    task_run_id: str
    kind: str
    data: Any
    name: str | None = None


class Artifacts:
    """Leaves things for people to look at: what ``context.artifact`` is in the body of a task.

    They are recorded with the task run, and shown on its page and by ``flowloop show``. A body is never made to wait,
    and nothing that is wrong with an artifact fails it: what cannot be recorded is told in the log. In a run that
    is not recorded, they are dropped.

    Example:

        ```python
        @task
        async def load(path: str) -> int:
            rows = read(path)
            for number, row in enumerate(rows):
                context.artifact.progress(number / len(rows), "rows loaded")
            context.artifact.markdown(f"**{path}** has {len(rows)} rows")
            return len(rows)
        ```
    """

    def markdown(self, text: str, *, name: str | None = None) -> None:
        """Leave a text in Markdown.

        Args:
            - text: the text
            - name: replaces what the same task run has left under this name
        """
        _leave("markdown", {"markdown": str(text)}, name)

    def link(self, url: str, text: str | None = None, *, name: str | None = None) -> None:
        """Leave a link.

        Args:
            - url: where it leads
            - text: what is shown of it; the URL itself if None
            - name: as for `markdown`
        """
        _leave("link", {"link": str(url), **({} if text is None else {"text": str(text)})}, name)

    def table(
        self,
        rows: Iterable[Mapping[str, Any] | Sequence[Any]],
        columns: Sequence[str] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        """Leave a table.

        Args:
            - rows: a mapping each, or with `columns` also a sequence each
            - columns: the names of the columns, and their order; those of the mappings if None
            - name: as for `markdown`
        """
        _leave("table", lambda: [_row(row, columns) for row in rows], name)

    def progress(self, part: float, label: str | None = None) -> None:
        """Show how far the task run is: a bar for each label, which the next call moves.

        Args:
            - part: from 0 to 1
            - label: what it is that is so far
        """
        _leave("progress", lambda: {"progress": _part(part), "label": label}, f"progress of {label}")


artifacts = Artifacts()


def _row(row: Mapping[str, Any] | Sequence[Any], columns: Sequence[str] | None) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        if columns is None:
            raise ValueError("the rows of a table are mappings, or its columns are named")
        row = dict(zip(columns, row, strict=True))
    return {str(name): row.get(name) for name in (row if columns is None else columns)}


def _part(part: float) -> float:
    if math.isnan(part):
        raise ValueError("a progress is a number from 0 to 1")
    return min(max(float(part), 0.0), 1.0)


def _leave(kind: str, data: Any, name: str | None) -> None:
    """Hand an artifact on: as a line of the log, because these come home from wherever a body runs."""
    current = values.get()
    task_run_id = current.get("task_run_id")
    if not current.get("running_with_backend"):
        return
    try:
        if task_run_id is None:
            raise ValueError("an artifact belongs to a task run: leave it in the body of a task")
        made = msgspec.to_builtins(data() if callable(data) else data, str_keys=True, enc_hook=_shown)
        left = Artifact(current["flow_run_id"], task_run_id, kind, made, name)
    except Exception as error:
        _log.warning("an artifact (%s) of %s is not recorded: %s", kind, current.get("task_full_name"), error)
        return
    line = _log.makeRecord(_log.name, logging.DEBUG, "", 0, "an artifact: %s", (kind,), None, extra={"artifact": left})
    _log.handle(line)


def _shown(value: Any) -> str:
    """Return what JSON does not know as people read it."""
    return str(value)


_collectors: dict[str, Callable[[Artifact], None]] = {}


@contextmanager
def collecting(flow_run_id: str, collect: Callable[[Artifact], None]) -> Iterator[None]:
    """Take, inside the block, what the bodies of a flow run leave."""
    _collectors[flow_run_id] = collect
    try:
        yield
    finally:
        _collectors.pop(flow_run_id, None)


def _taken(line: logging.LogRecord) -> bool:
    """Take an artifact out of the log where its flow run is; elsewhere it goes on, to be heard there."""
    left: Artifact | None = getattr(line, "artifact", None)
    collect = None if left is None else _collectors.get(left.flow_run_id)
    if left is None or collect is None:
        return True
    collect(left)
    return False


_log.addFilter(_taken)
