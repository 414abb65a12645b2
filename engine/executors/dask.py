"""Task bodies on a Dask cluster."""

from __future__ import annotations

import functools
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread

from ..errors import ExecutorError
from ._ticket import TaskTicket
from ._travel import ByName, outcome_of_answer, pickled, request_for, run, unpickled
from .base import PlaceExecutor
from .place import Fate, Job, Outcome, Place, Ticket

__all__ = ["DaskExecutor"]


class DaskExecutor(PlaceExecutor):
    """Runs each body, sync or async, on a worker of a Dask cluster, where flowloop is installed, too.

    A body that times out or is cancelled is taken back if it has not begun; otherwise Dask brings it to its end, and
    what it returns is dropped.

    Args:
        - address: the scheduler of a cluster that is there; one of this computer is made for each flow run if None
        - cluster_class: what makes the cluster where there is no address; ``distributed.LocalCluster`` if None
        - cluster_kwargs: its arguments
        - adapt_kwargs: arguments of its ``adapt``, to let it grow and shrink
        - client_kwargs: arguments of ``distributed.Client``

    Raises:
        - ExecutorError: if Dask is not installed
    """

    def __init__(
        self,
        address: str | None = None,
        cluster_class: Callable[..., Any] | None = None,
        cluster_kwargs: Mapping[str, Any] | None = None,
        adapt_kwargs: Mapping[str, Any] | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if address is not None and (cluster_class is not None or cluster_kwargs or adapt_kwargs):
            raise ValueError("a DaskExecutor has an address, or arguments of a cluster that it makes, not both")
        super().__init__()
        self.address = address
        self.cluster_class = cluster_class
        self.cluster_kwargs = dict(cluster_kwargs or {})
        self.adapt_kwargs = dict(adapt_kwargs or {})
        self.client_kwargs = dict(client_kwargs or {})

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Place]:
        async with AsyncExitStack() as stack:
            yield _DaskPlace(await self._open(stack))

    async def _open(self, stack: AsyncExitStack) -> Any:
        try:
            import distributed
        except ImportError:
            raise ExecutorError("a DaskExecutor needs Dask: pip install 'flowloop[dask]'") from None
        target: Any = self.address
        if target is None:
            cluster = (self.cluster_class or distributed.LocalCluster)(asynchronous=True, **self.cluster_kwargs)
            target = await stack.enter_async_context(cluster)
            if self.adapt_kwargs:
                target.adapt(**self.adapt_kwargs)
        client: Any = distributed.Client
        return await stack.enter_async_context(client(target, asynchronous=True, **self.client_kwargs))

    def fate_when_cut_short(self, is_async: bool) -> str:
        """Say that Dask cannot stop a body."""
        return _CUT_SHORT


_CUT_SHORT = "If it had begun, its Dask worker brings it to its end."


class _DaskPlace(Place):
    """A cluster, as its client sees it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def submit(self, job: Job) -> Ticket:
        """Take a job."""
        return TaskTicket(job, functools.partial(self._work, job), _CUT_SHORT)

    async def _work(self, job: Job, ticket: TaskTicket) -> Outcome:
        request = request_for(job.body, job.args, dict(job.inputs))
        frame = await anyio.to_thread.run_sync(pickled, request, job.name)
        ticket.has_begun()
        ticket.fate = Fate.UNKNOWN
        answer = await self._answered(frame, job.name)
        if answer.kind == "unknown" and isinstance(request.body, ByName):
            frame = await anyio.to_thread.run_sync(pickled, request._replace(body=job.body), job.name)
            answer = await self._answered(frame, job.name)
        return outcome_of_answer(answer, job.name)

    async def _answered(self, frame: bytes, name: str) -> Any:
        future = self._client.submit(run, frame, key=f"{name}-{uuid.uuid4()}", pure=False)
        try:
            return unpickled(await future)
        except Exception as error:
            raise ExecutorError(f"task {name!r} was lost on the Dask cluster: {error!r}") from error
        finally:
            future.release()
