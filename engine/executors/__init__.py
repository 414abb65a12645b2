"""Where the bodies of tasks run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .base import Executor, SimpleExecutor
from .local import HERE, LocalExecutor
from .named import executor_named
from .place import Needs
from .several import SeveralExecutors

if TYPE_CHECKING:
    from .dask import DaskExecutor
    from .jobs import JobsExecutor
    from .kubernetes import KubernetesExecutor
    from .processes import ProcessExecutor
    from .ray import RayExecutor

__all__ = [
    "HERE",
    "DaskExecutor",
    "Executor",
    "JobsExecutor",
    "KubernetesExecutor",
    "LocalExecutor",
    "Needs",
    "ProcessExecutor",
    "RayExecutor",
    "SeveralExecutors",
    "SimpleExecutor",
    "executor_named",
]

_LATER = {
    "DaskExecutor": "dask",
    "JobsExecutor": "jobs",
    "KubernetesExecutor": "kubernetes",
    "ProcessExecutor": "processes",
    "RayExecutor": "ray",
}
"""What is imported when it is first asked for, and its module."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
