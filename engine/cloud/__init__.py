"""The runners that record: every transition goes through a backend."""

from __future__ import annotations

from .background import background
from .creation import create_flow_run, register_flow
from .flow_runner import CloudFlowRunner
from .task_runner import CloudTaskRunner

__all__ = ["CloudFlowRunner", "CloudTaskRunner", "background", "create_flow_run", "register_flow"]
