"""The layers: which module may import which, read from the source of both halves.

An import inside a function loads something late, and one under ``TYPE_CHECKING`` loads nothing: neither is bound to the
order. That `engine` never imports `backends`, and that pure modules stay pure, holds for every import.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# each line may import from the lines above it
LAYERS = """
    errors clock lifecycle presence watchdog _containers _generic _large _layout remote masking _one_pass _pickler _run
    _at_once _eager _turns
    context edge hashing plain retries serializers settings _run.ledger _signature
    artifacts result stdout streaming task_states
    results state _checks
    directives telemetry
    backend cache_validators explain given serialization signals watch _run.mapping _run.release
    _run.net
    _run.rules
    cancellation runner schedules triggers
    executors
    task
    _run.ahead _run.caching _run.gates operators parameter secrets
    _run.body _run.steps limits notebook visualize wiring
    progress timeline
    task_runner
    control events flow
    documents resources _run.drive _run.keeping _run.left _run.restart
    flow_runner
    cloud flow_loop
    subflow
    testing
    engine

    _answered _line
    _circuit _hub isolation store
    batcher _elsewhere schedule_dates services
    client.texts client.transport memory.rows
    client.subscription
    client.backend memory.backend embedded
    client memory notifier prometheus
    server worker
    recovery
    cli
    backends
"""
RANK = {name: rank for rank, line in enumerate(LAYERS.splitlines()) for name in line.split()}

PURE = """
    errors lifecycle edge state signals serializers serialization hashing plain given _run.ledger _run.mapping
    _run.release _run.rules _line client.texts
"""
IMPURE = "anyio asyncio logging random time uuid backend backends"


def sources() -> list[Path]:
    return [path for half in ("engine", "backends") for path in sorted((ROOT / half).rglob("*.py"))]


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


ROOMS = "_run client memory"
"""The packages whose modules have layers of their own."""


def module(path: Path) -> str:
    """Return the module, or the package, right below its half; the half itself for its ``__init__``."""
    half, *inside = path.relative_to(ROOT).with_suffix("").parts
    return layered([part for part in inside if part != "__init__"]) or half


def layered(inside: list[str]) -> str:
    """Return what has a layer: a module or package below a half, or a module inside a room."""
    return ".".join(inside[: 2 if inside and inside[0] in ROOMS.split() else 1])


def imports(path: Path, *, late: bool) -> Iterator[tuple[int, str]]:
    """Yield the imports of a file: the line, and the module as `module` names it, or the other library.

    Args:
        - path: the file
        - late: whether to yield those inside functions, too
    """
    package = path.relative_to(ROOT).parent.parts

    def visit(node: ast.AST) -> Iterator[tuple[int, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((child.lineno, alias.name.split(".")[0]) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else ()
                for alias in child.names:
                    target = [*base, *(child.module or alias.name).split(".")]
                    inside = child.level and len(target) > 1 and target[0] in ("engine", "backends")
                    is_room = target[1:] in [[room] for room in ROOMS.split()]
                    named = [*target[1:], alias.name] if is_room and f"{target[1]}.{alias.name}" in RANK else target[1:]
                    yield child.lineno, layered(named) if inside else target[0]
            if late or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from visit(child)

    yield from visit(parsed(path))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = module(path)
    assert own in RANK, f"{own} has no layer yet: give it one in {Path(__file__).name}"
    for line, target in imports(path, late=False):
        if target in RANK and target != own:
            assert RANK[target] < RANK[own], f"{path.relative_to(ROOT)}:{line}: {own} is not above {target}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_engine_knows_no_backend_and_pure_modules_stay_pure(path: Path) -> None:
    forbidden = set(IMPURE.split()) if module(path) in PURE.split() else set()
    if path.is_relative_to(ROOT / "engine"):
        forbidden |= {name for name in RANK if RANK[name] > RANK["engine"]}
    found = [(line, target) for line, target in imports(path, late=True) if target in forbidden]
    if module(path) in ("client.texts", "_line"):
        found = [one for one in found if one[1] != "backend"]  # they read the records of the port
    assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_nobody_imports_a_half_without_its_package() -> None:
    """``import engine`` from the root of the repository would load every module a second time."""
    others = [path for folder in ("tests", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    for path in [*sources(), *others]:
        for node in ast.walk(parsed(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            wrong = [name for name in names if name.split(".")[0] in ("engine", "backends")]
            assert not wrong, f"{path.relative_to(ROOT)}:{node.lineno}: write flowloop.{wrong[0]}"


def test_every_layer_has_its_modules() -> None:
    assert RANK.keys() == {module(path) for path in sources()}
