"""The runners that record: every transition goes through a backend."""

from __future__ import annotations

from .creation import create_flow_run, register_flow
from .flow_runner import CloudFlowRunner
from .task_runner import CloudTaskRunner

__all__ = ["CloudFlowRunner", "CloudTaskRunner", "create_flow_run", "register_flow"]
