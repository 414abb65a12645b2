"""flowloop's engine: flows of tasks, run on the caller's event loop.

Example:

    ```python
    from flowloop.engine import Flow, FlowRunner, task

    @task
    async def double(n: int) -> int:
        return 2 * n

    with Flow("doubles") as flow:
        doubled = double.map([1, 2, 3])

    state = await FlowRunner(flow).run()
    ```
"""

from __future__ import annotations

from .context import context
from .control import case, merge, pause_task, switch
from .edge import Edge, flatten, mapped, unmapped
from .events import wait_for_event
from .flow import Flow
from .flow_loop import run
from .flow_runner import FlowRunner
from .limits import Limits, Rate
from .parameter import DateTimeParameter, Parameter
from .resources import ResourceManager, resource_manager
from .secrets import EnvVarSecret, Secret
from .settings import Settings
from .state import State
from .subflow import FlowTask, subflow
from .task import FunctionTask, Task, defaults_from_attrs, tags, task
from .task_runner import TaskRunner
from .wiring import apply_map

__all__ = [
    "DateTimeParameter",
    "Edge",
    "EnvVarSecret",
    "Flow",
    "FlowRunner",
    "FlowTask",
    "FunctionTask",
    "Limits",
    "Parameter",
    "Rate",
    "ResourceManager",
    "Secret",
    "Settings",
    "State",
    "Task",
    "TaskRunner",
    "apply_map",
    "case",
    "context",
    "defaults_from_attrs",
    "flatten",
    "mapped",
    "merge",
    "pause_task",
    "resource_manager",
    "run",
    "subflow",
    "switch",
    "tags",
    "task",
    "unmapped",
    "wait_for_event",
]
