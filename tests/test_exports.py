"""What each module says it exports, in ``__all__``."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [
    "flowloop." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for half in ("engine", "backends")
    for path in sorted((ROOT / half).rglob("*.py"))
    # migrations are files that Alembic runs, and ``__main__`` is one that Python does
    if "migrations" not in path.parts and path.stem != "__main__"
]


def sort_key(name: str) -> tuple[int, str]:
    """Constants first, then classes, then functions: the order that ruff keeps."""
    return (0 if name.isupper() else 1 if name.lstrip("_")[0].isupper() else 2, name)


@pytest.mark.parametrize("name", MODULES)
def test_all_is_sorted_and_true(name: str) -> None:
    module = importlib.import_module(name)
    is_private = name.split(".")[-1].startswith("_") or name == "flowloop.backends.client.texts"
    if is_private and not hasattr(module, "__all__"):
        return
    exported = module.__all__
    assert list(exported) == sorted(set(exported), key=sort_key)
    for one in exported:
        assert hasattr(module, one), f"{name} has no {one}"
        assert not one.startswith("_")


PACKAGES = ["", ".cloud", ".executors", ".results", ".schedules", ".serialization"]


@pytest.mark.parametrize("name", [f"flowloop.engine{name}" for name in PACKAGES])
def test_a_package_exports_what_it_imports(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__" and node.level
        for alias in node.names
    }
    assert {one for one in imported if not one.startswith("_")} <= set(module.__all__)


def test_a_star_import_of_the_engine_brings_what_a_user_types() -> None:
    found: dict[str, object] = {}
    exec("from flowloop.engine import *", found)
    assert {"Flow", "FlowRunner", "Parameter", "Task", "context", "task", "unmapped"} <= found.keys()
