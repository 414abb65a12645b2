"""A backend in front of another one that lets its runner die in the middle of a call, as a process does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

from flowloop.engine import context
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.errors import BackendUnavailable
from flowloop.engine.state import State

_WRITES = ("set_flow_run_state", "set_task_run_state", "set_task_run_name", "get_task_run_infos")


class MortalBackend:
    """Passes calls on until its runner dies.

    Args:
        - backend: what answers
        - dies_at: the number of the write, from zero, in which the runner dies, or a function that chooses it by the
            task and the kind of state that it sends; it never dies if None
        - recorded: whether that write reached the backend
    """

    def __init__(
        self,
        backend: Any,
        dies_at: int | Callable[[str | None, str], bool] | None = None,
        *,
        recorded: bool = False,
    ) -> None:
        self._backend = backend
        self._dies_at = dies_at
        self._recorded = recorded
        self.url = backend.url
        self.writes = 0
        self.dead = asyncio.Event()

    @property
    def backlog(self) -> int:
        return self._backend.backlog

    def watch_flow_run(self, flow_run_id: str) -> None:
        return None

    def _is_last(self, number: int, args: tuple[Any, ...]) -> bool:
        if not callable(self._dies_at):
            return number == self._dies_at
        states = [arg for arg in args if isinstance(arg, State)]
        return bool(states) and self._dies_at(context.get("task_full_name"), type(states[0]).__name__)

    def die(self) -> NoReturn:
        """Answer nothing any more."""
        self.dead.set()
        raise BackendUnavailable("dead")

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._backend, method)

        async def mortal(*args: Any, **kwargs: Any) -> Any:
            if self.dead.is_set():
                raise BackendUnavailable("dead")
            if method in _WRITES:
                number, self.writes = self.writes, self.writes + 1
                if self._is_last(number, args):
                    if self._recorded:
                        await call(*args, **kwargs)
                    self.die()
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
