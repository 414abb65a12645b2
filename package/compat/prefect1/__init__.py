"""Runs flow files that were written for Prefect 1: their ``import prefect`` resolves to what flowloop has.

It is off until it is switched on, by one of these:

- ``from flowloop.compat import prefect1; prefect1.install()`` before the first import of prefect
- ``python -m flowloop.compat.prefect1 flow.py`` in place of ``python flow.py``

A name that flowloop has not raises `NotInFlowloop`, which says what to use instead. ``flowloop migrate flow.py`` says,
without running anything, what a file uses and how it is written without this.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ...engine.errors import FlowloopError
from .names import MODULES, way_out

__all__ = ["NotInFlowloop", "install", "uninstall"]


class NotInFlowloop(FlowloopError, ImportError):
    """A name of Prefect 1 that flowloop does not have; the message says what to use instead."""


def install() -> None:
    """Let ``import prefect`` and all below it resolve to flowloop, from now on in this process.

    Raises:
        - FlowloopError: if the real Prefect has been imported already
    """
    loaded = sys.modules.get("prefect")
    if loaded is not None and not isinstance(loaded, _Module):
        raise FlowloopError(
            "prefect has been imported already, from its own package: call flowloop.compat.prefect1.install() before"
        )
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def uninstall() -> None:
    """Undo `install`; modules that have imported names keep them."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
    for name in [name for name, module in sys.modules.items() if isinstance(module, _Module)]:
        del sys.modules[name]


def resolve(module: str, name: str) -> Any:
    """Return what a name of a module of Prefect stands for here.

    Raises:
        - NotInFlowloop: if there is nothing
        - AttributeError: for a name that Prefect does not have either, as far as is known here
    """
    place = MODULES[module].get(name)
    if place is None and f"{module}.{name}" in MODULES:
        return importlib.import_module(f"{module}.{name}")
    if place is None:
        instead = way_out(f"{module}.{name}")
        if instead is not None:
            raise NotInFlowloop(f"{module}.{name} is not in flowloop: {instead}")
        raise AttributeError(f"module {module!r}, as flowloop has it, has no {name!r}")
    home, _, attribute = place.partition(":")
    found = importlib.import_module(home, "flowloop")
    return getattr(found, attribute) if attribute else found


class _Module(ModuleType):
    """A module of Prefect: looks its names up when they are asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in MODULES[self.__name__]:
            raise AttributeError(name)
        found = resolve(self.__name__, name)
        setattr(self, name, found)
        return found

    def __dir__(self) -> list[str]:
        return sorted(MODULES[self.__name__])


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "prefect":
            return None
        if fullname not in MODULES:
            instead = way_out(fullname) or "it has nothing in its place"
            raise NotInFlowloop(f"{fullname} is not in flowloop: {instead}", name=fullname)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = _Module(spec.name)
        module.__dict__["__all__"] = sorted(MODULES[spec.name])
        return module

    def exec_module(self, module: ModuleType) -> None:
        return None


_FINDER = _Finder()
