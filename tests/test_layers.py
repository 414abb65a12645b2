"""The layers: imports point down, the halves keep apart, and what is pure stays pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from .commands import ROOT

LAYERS = [
    ("engine/errors", "engine/clock", "engine/serializers", "engine/settings"),
    ("engine/context", "engine/edge", "engine/result", "engine/state"),
    ("engine/signals", "engine/triggers", "engine/cache_validators", "engine/results"),
    ("engine/_rules", "engine/_mapping", "engine/_ledger"),
    ("engine/task", "engine/parameter", "engine/flow", "engine/control"),
    ("engine/backend", "engine/executors", "engine/limits", "engine/watch"),
    ("engine/runner",),
    ("engine/task_runner",),
    ("engine/flow_runner",),
    ("engine/cloud",),
    ("engine/testing",),
    ("backends/_documents", "backends/batcher"),
    ("backends/memory", "backends/client", "backends/store", "backends/embedded"),
    ("backends/server",),
    ("backends/cli",),
]
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}
ADAPTERS = {"backends/memory", "backends/client", "backends/store", "backends/embedded", "backends/server"}
MAY_USE = {("backends/embedded", "backends/store"), ("backends/server", "backends/store")}

PURE = ["errors", "edge", "state", "signals", "serializers", "_rules", "_mapping", "_ledger"]
IMPURE = {"anyio", "asyncio", "logging", "random", "threading", "time", "uuid"}

FILES = sorted(path.relative_to(ROOT) for half in ("engine", "backends") for path in (ROOT / half).rglob("*.py"))


def imports(file: Path, *, lazy: bool) -> Iterator[tuple[str, ...]]:
    """Yield what a file imports, relative imports as paths from the root; with `lazy` also what functions import."""
    tree = ast.parse((ROOT / file).read_text())
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield tuple(str(node.module).split("."))
        elif isinstance(node, ast.ImportFrom):
            folder = file.parts[: len(file.parts) - node.level]
            names = [node.module.split(".")] if node.module else [[alias.name] for alias in node.names]
            yield from ((*folder, *name) for name in names)


def module(parts: tuple[str, ...]) -> str:
    """Return the module of the first level below a half: ``engine/state``, ``backends/server``."""
    return "/".join(Path(part).stem for part in parts[:2])


def test_imports_point_down() -> None:
    graph: dict[str, set[str]] = {}
    for file in FILES:
        own = module(file.parts)
        for imported in imports(file, lazy=False):
            other = module(imported)
            if imported[0] in ("engine", "backends") and other != own:
                graph.setdefault(own, set()).add(other)
                if own in LEVEL and other in LEVEL:
                    assert LEVEL[other] <= LEVEL[own], f"{file} imports {other}, which is above it"
    for package in ("engine", "backends"):  # what a package offers comes from below and above
        graph.pop(f"{package}/__init__", None)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("file", FILES, ids=str)
def test_halves_and_adapters_keep_apart(file: Path) -> None:
    own = module(file.parts)
    for imported in imports(file, lazy=True):
        other = module(imported)
        by_alembic = "migrations" in file.parts  # run as files, outside any package
        assert imported[0] != "flowloop" or by_alembic, f"{file}: imports inside flowloop are relative"
        assert not (file.parts[0] == "engine" and imported[0] == "backends"), f"{file} imports {other}"
        if {own, other} <= ADAPTERS and own != other:
            assert (own, other) in MAY_USE, f"{file} imports {other}: adapters do not use each other"
        assert other != "backends/cli" or own == "backends/cli", f"{file} imports the command line"


@pytest.mark.parametrize("name", PURE)
def test_what_is_pure_imports_no_clock_no_loop_and_no_logger(name: str) -> None:
    file = Path("engine") / f"{name}.py"
    assert {imported[0] for imported in imports(file, lazy=True)} & IMPURE == set()


def test_nothing_imports_a_half_under_its_folder_name() -> None:
    for folder in ("tests", "examples", "benchmarks", "docs", "engine", "backends"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [str(node.module)] if isinstance(node, ast.ImportFrom) and not node.level else []
                for name in names:
                    assert name.split(".")[0] not in ("engine", "backends"), f"{path} would load a second copy"
