"""Where the bodies of tasks run."""

from __future__ import annotations

from .base import Executor
from .dask import DaskExecutor
from .local import LocalExecutor
from .processes import ProcessExecutor

__all__ = ["DaskExecutor", "Executor", "LocalExecutor", "ProcessExecutor"]
