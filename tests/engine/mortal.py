"""A backend in front of another one that lets its runner die in the middle of a call, as a process does."""

from __future__ import annotations

import asyncio
from typing import Any

from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.errors import BackendUnavailable

_WRITES = ("set_flow_run_state", "set_task_run_state", "set_task_run_name", "get_task_run_infos")


class MortalBackend:
    """Passes calls on until its runner dies.

    Args:
        - backend: what answers
        - dies_at: the number of the write, from zero, in which the runner dies; it never does if None
        - recorded: whether that write reached the backend
    """

    def __init__(self, backend: Any, dies_at: int | None = None, *, recorded: bool = False) -> None:
        self._backend = backend
        self._dies_at = dies_at
        self._recorded = recorded
        self.url = backend.url
        self.writes = 0
        self.dead = asyncio.Event()

    def watch_flow_run(self, flow_run_id: str) -> None:
        return None

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._backend, method)

        async def mortal(*args: Any, **kwargs: Any) -> Any:
            if self.dead.is_set():
                raise BackendUnavailable("dead")
            if method in _WRITES:
                number, self.writes = self.writes, self.writes + 1
                if number == self._dies_at:
                    if self._recorded:
                        await call(*args, **kwargs)
                    self.dead.set()
                    raise BackendUnavailable("dead")
            return await call(*args, **kwargs)

        return mortal


async def run_until_death(flow: Any, backend: MortalBackend, flow_run_id: str, **options: Any) -> bool:
    """Run a flow run until its runner dies in the backend, and return whether it did."""
    runner = CloudFlowRunner(flow, backend=backend, **options)  # type: ignore[arg-type]
    run = asyncio.ensure_future(runner.run(context={"flow_run_id": flow_run_id}))
    death = asyncio.ensure_future(backend.dead.wait())
    await asyncio.wait([run, death], return_when=asyncio.FIRST_COMPLETED)
    death.cancel()
    run.cancel()
    await asyncio.wait([run])
    return backend.dead.is_set()
