"""Waiting, in a task, for an event that somebody sends to the flow run."""

from __future__ import annotations

from typing import Any

import anyio

from .backend import Backend
from .context import context, flow_scope
from .errors import FlowloopError
from .plain import typed
from .task import Task

__all__ = ["WaitForEvent", "wait_for_event"]

_LOOK_EVERY = 0.5
"""Seconds between two looks for the event."""


class WaitForEvent(Task[[], Any]):
    """Waits for an event, and has its value as result: made by `wait_for_event`.

    Events are recorded with the flow run: one that came before the task began counts, and after a restart of the
    process the task finds what was sent meanwhile. Every task that waits for a name goes on with the first event of it.

    Args:
        - event: the name of the event
        - patience: seconds to wait; for ever if None
        - type: what the value is to be; an event whose value cannot be that is passed over
        - kwargs: as for `Task`
    """

    travels = False

    def __init__(self, event: str, patience: float | None = None, type: Any = Any, **kwargs: Any) -> None:
        kwargs.setdefault("name", f"wait for {event}")
        super().__init__(**kwargs)
        self.event = event
        self.patience = patience
        self.type = type

    async def run(self) -> Any:
        """Wait for the event.

        Raises:
            - TimeoutError: if none came in time
            - FlowloopError: in a flow run that is not recorded, to which nobody can send anything
        """
        scope = flow_scope.get()
        backend: Backend | None = scope.backend
        if backend is None:
            raise FlowloopError(
                f"task {self.name!r} waits for the event {self.event!r}, which only a recorded flow run can be sent: "
                "run the flow with CloudFlowRunner, or with `flowloop run`"
            )
        passed_over: set[str] = set()
        with anyio.move_on_after(self.patience):
            while True:
                for sent in await backend.list_directives(context["flow_run_id"]):
                    if sent.kind != "event" or sent.task != self.event or sent.id in passed_over:
                        continue
                    try:
                        value = sent.value if self.type is Any else typed(sent.value, self.type)
                    except ValueError as error:
                        context.logger.warning("the event %r is passed over: %s", self.event, error)
                        passed_over.add(sent.id)
                        continue
                    if sent.obeyed is None:
                        await backend.obey_directive(sent.id, getattr(scope.ownership, "claim", sent).epoch)
                    return value
                await anyio.sleep(_LOOK_EVERY)
        raise TimeoutError(f"no event {self.event!r} came within {self.patience:g} s")


def wait_for_event(event: str, *, timeout: float | None = None, type: Any = Any, **task_args: Any) -> Any:
    """Add a task that waits for an event which somebody sends: from code, by the API, or with ``flowloop event``.

    Args:
        - event: its name
        - timeout: seconds to wait, for ever if None; counted anew where another process goes on with the flow run
        - type: what the value is to be: a type annotation as of a `Parameter`. An event whose value cannot be that is
            passed over, and the log says so.
        - task_args: as for `Task`

    Returns:
        - Task: its result is the value that the event brings

    Example:

        ```python
        with Flow("payout") as flow:
            amount = wait_for_event("approved", timeout=3600)
            pay(amount)
        ```
    """
    return WaitForEvent(event, timeout, type, **task_args).bind()
