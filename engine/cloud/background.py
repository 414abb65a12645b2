"""Running flows in the background of an application."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, runtime_checkable

from .._run.net import goes_on
from ..flow_runner import FlowRunner
from ..runner import failures

__all__ = ["background"]


@runtime_checkable
class _StartsSoon(Protocol):
    def start_soon(self, func: Callable[[], Coroutine[Any, Any, None]], /) -> Any: ...


class _CreatesTasks(Protocol):
    def create_task(self, coroutine: Coroutine[Any, Any, None], /) -> Any: ...


def background(group: _StartsSoon | _CreatesTasks, runner: FlowRunner, **arguments: Any) -> None:
    """Run a flow in a task group, beside others: whatever comes of it is logged, and never cancels them.

    The group still waits for it, and a cancel of the group stops it as it stops any run.

    Args:
        - group: a task group of anyio or of asyncio
        - runner: the runner; one for each run
        - arguments: go to its ``run``

    Example:

        ```python
        flow_run_id = await create_flow_run(flow, backend, parameters)
        background(group, CloudFlowRunner(flow, backend=backend), context={"flow_run_id": flow_run_id})
        ```
    """

    async def run() -> None:
        try:
            await runner.run(**arguments)
        except Exception as error:
            if goes_on(error):
                raise
            failures.error("flow %r could not be run in the background: %s", runner.flow.name, error)

    if isinstance(group, _StartsSoon):
        group.start_soon(run)
    else:
        group.create_task(run())
