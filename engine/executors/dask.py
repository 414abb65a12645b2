"""Task bodies on a Dask cluster."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread

from ..errors import ExecutorError
from ._travel import ByName, name_of, pickled, request_for, run, unpickled, value_of
from .base import Executor

__all__ = ["DaskExecutor"]


class DaskExecutor(Executor):
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
        self.address = address
        self.cluster_class = cluster_class
        self.cluster_kwargs = dict(cluster_kwargs or {})
        self.adapt_kwargs = dict(adapt_kwargs or {})
        self.client_kwargs = dict(client_kwargs or {})
        self._reset()

    def _reset(self) -> None:
        self._client: Any = None
        self._flow_runs = 0
        self._held = AsyncExitStack()
        self._lock = anyio.Lock()

    @asynccontextmanager
    async def start(self) -> AsyncIterator[None]:
        """Hold a client, and the cluster if there is no address, for as long as a flow runs; several share them."""
        async with self._lock:
            if not self._flow_runs:
                async with AsyncExitStack() as opened:
                    self._client = await self._open(opened)
                    self._held = opened.pop_all()
            self._flow_runs += 1
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                async with self._lock:
                    self._flow_runs -= 1
                    if not self._flow_runs:
                        self._client = None
                        await self._held.aclose()

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

    async def submit(
        self, fn: Callable[..., Any], *args: Any, extra_context: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """Run a body to its end; see `Executor.submit`."""
        if self._client is None:
            raise ExecutorError("this DaskExecutor is not started: submit inside `async with executor.start()`")
        name, request = name_of(fn, extra_context), request_for(fn, args, kwargs)
        answer = await self._answered(await anyio.to_thread.run_sync(pickled, request, name), name)
        if answer.kind == "unknown" and isinstance(request.body, ByName):
            frame = await anyio.to_thread.run_sync(pickled, request._replace(body=fn), name)
            answer = await self._answered(frame, name)
        return value_of(answer, name)

    async def _answered(self, frame: bytes, name: str) -> Any:
        future = self._client.submit(run, frame, key=f"{name}-{uuid.uuid4()}", pure=False)
        try:
            return unpickled(await future)
        except Exception as error:
            raise ExecutorError(f"task {name!r} was lost on the Dask cluster: {error!r}") from error
        finally:
            future.release()

    def fate_when_cut_short(self, is_async: bool) -> str:
        """Say that Dask cannot stop a body."""
        return "If it had begun, its Dask worker brings it to its end."

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()
