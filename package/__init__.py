"""flowloop: flows of tasks on the event loop of your program, with every state recorded.

Example:

    ```python
    from flowloop import Flow, task

    @task
    async def double(n: int) -> int:
        return 2 * n

    with Flow("doubles") as flow:
        doubled = double.map([1, 2, 3])

    state = flow.run_sync()
    ```

Importing this package loads nothing: each name is looked up in its half when it is first asked for.
"""

# no `from __future__` and no import at all: this file is read by everything that imports a part of flowloop

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .backends import Recovery, connect
    from .engine import (
        DateTimeParameter,
        Edge,
        EnvVarSecret,
        Flow,
        FlowRunner,
        FlowTask,
        FunctionTask,
        Limits,
        Parameter,
        Rate,
        ResourceManager,
        Secret,
        Settings,
        State,
        Task,
        TaskRunner,
        apply_map,
        case,
        context,
        defaults_from_attrs,
        flatten,
        mapped,
        merge,
        pause_task,
        resource_manager,
        run,
        subflow,
        switch,
        tags,
        task,
        unmapped,
        wait_for_event,
    )
    from .engine.cloud import CloudFlowRunner, CloudTaskRunner, background, create_flow_run, register_flow

__all__ = [
    "CloudFlowRunner",
    "CloudTaskRunner",
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
    "Recovery",
    "ResourceManager",
    "Secret",
    "Settings",
    "State",
    "Task",
    "TaskRunner",
    "apply_map",
    "background",
    "case",
    "connect",
    "context",
    "create_flow_run",
    "defaults_from_attrs",
    "flatten",
    "mapped",
    "merge",
    "pause_task",
    "register_flow",
    "resource_manager",
    "run",
    "subflow",
    "switch",
    "tags",
    "task",
    "unmapped",
    "wait_for_event",
]

_ELSEWHERE = {
    "Recovery": ".backends",
    "connect": ".backends",
    "CloudFlowRunner": ".engine.cloud",
    "CloudTaskRunner": ".engine.cloud",
    "background": ".engine.cloud",
    "create_flow_run": ".engine.cloud",
    "register_flow": ".engine.cloud",
}
"""Where names are that are not in the engine itself."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(_ELSEWHERE.get(name, ".engine"), __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
