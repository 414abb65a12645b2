"""The code on a page of the documentation, run block by block as if it were typed into one notebook.

Time is virtual, so that a page may wait for hours. What a block prints has to be what the ``text`` block right under it
shows, where there is one. ``python -m tests.snippets PAGE`` shows what the blocks of a page print.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import datetime
import inspect
import io
import os
import re
import sys
import tempfile
import types
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from flowloop.engine import flow_loop, testing

__all__ = ["Snippet", "run_page", "snippets"]

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | __future__.annotations.compiler_flag


class Snippet(NamedTuple):
    """A block of Python, the line it begins at, and what it is said to print."""

    line: int
    code: str
    printed: str | None


def snippets(text: str) -> list[Snippet]:
    """Return the blocks of a page that are to be run, those marked ``python``."""
    found = list(_FENCE.finditer(text))
    made = []
    for fence, after in zip(found, [*found[1:], None], strict=False):
        if fence[1] == "python":
            shown = after is not None and after[1] == "text" and not text[fence.end() : after.start()].strip()
            printed = after[2] if after is not None and shown else None
            made.append(Snippet(text[: fence.start()].count("\n") + 2, fence[2], printed))
    return made


def run_page(page: Path) -> Iterator[tuple[Snippet, str]]:
    """Run the blocks of a page one after the other, and yield each with what it prints.

    Each page is a module of its own, in the current folder, as its flows and tasks may have to be found by name.
    """
    module = types.ModuleType(f"page_{page.stem.replace('-', '_')}")
    module.__file__ = str(page)
    sys.modules[module.__name__] = module  # and what the page imports stays, as it would elsewhere
    try:
        for snippet in snippets(page.read_text(encoding="utf-8")):
            padding = "\n" * (snippet.line - 1)  # so that a traceback names the line of the page
            code = compile(padding + snippet.code, str(page), "exec", _FLAGS)
            shown = io.StringIO()
            with contextlib.redirect_stdout(shown), mock.patch.object(flow_loop, "run_sync", _run_virtually):
                if code.co_flags & inspect.CO_COROUTINE:
                    _run_virtually(_awaited(code, module.__dict__))
                else:
                    exec(code, module.__dict__)
            yield snippet, shown.getvalue()
    finally:
        del sys.modules[module.__name__]


async def _awaited(code: types.CodeType, names: dict[str, Any]) -> None:
    await eval(code, names)


def _run_virtually(coroutine: Coroutine[Any, Any, Any], *, instead: str = "") -> Any:
    # a database tells the real time, so the virtual one begins with it
    return testing.run(coroutine, start=datetime.datetime.now(datetime.UTC))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = Path(name).absolute()
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            os.environ["FLOWLOOP_HOME"] = folder
            for snippet, printed in run_page(page):
                same = "" if snippet.printed in (None, printed) else "   <-- differs from the page"
                print(f"--- {page.name}:{snippet.line}{same}\n{printed}", end="")
