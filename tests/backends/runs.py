"""Flow documents and flow runs that tests of backends begin with."""

from __future__ import annotations

import uuid
from typing import Any

from flowloop.engine.backend import Backend, FlowRunInfoResult, TaskRunInfoResult
from flowloop.engine.state import Running

MISSING = "00000000-0000-4000-8000-00000000dead"


def unique(text: str) -> str:
    return f"{text} {uuid.uuid4().hex}"


def task_document(slug: str, **fields: Any) -> dict[str, Any]:
    return {
        "__version__": "1.4.1",
        "type": "flowloop.engine.task.Task",
        "name": slug.rpartition("-")[0],
        "slug": slug,
        "tags": [],
        "max_retries": 0,
        "retry_delay": None,
        "timeout": None,
        "trigger": {"fn": "flowloop.engine.triggers.all_successful", "kwargs": {}},
        "skip_on_upstream_skip": True,
        "cache_for": None,
        "cache_key": None,
        "cache_validator": {"fn": "flowloop.engine.cache_validators.never_use", "kwargs": {}},
        "auto_generated": False,
        "inputs": {},
        "outputs": "typing.Any",
        **fields,
    }


def flow_document(name: str = "etl", tasks: int = 3, **fields: Any) -> dict[str, Any]:
    return {
        "__version__": "1.4.1",
        "type": "flowloop.engine.flow.Flow",
        "name": name,
        "schedule": None,
        "parameters": [],
        "tasks": [task_document(f"task-{number}") for number in range(1, tasks + 1)],
        "edges": [],
        "reference_tasks": [],
        "run_config": None,
        "storage": None,
        **fields,
    }


class Started:
    """A flow run in state Running, and its task runs."""

    def __init__(self, backend: Backend, info: FlowRunInfoResult) -> None:
        self.backend = backend
        self.info = info
        self.id = info.id
        self.tasks: list[TaskRunInfoResult] = sorted(info.task_runs, key=lambda run: run.task_slug or "")


async def started(backend: Backend, tasks: int = 3, document: dict[str, Any] | None = None) -> Started:
    flow = await backend.register_flow(document or flow_document(tasks=tasks), project_name="demo")
    flow_run_id = await backend.create_flow_run(flow.id)
    await backend.set_flow_run_state(flow_run_id, 1, Running("go"))
    return Started(backend, await backend.get_flow_run_info(flow_run_id))
