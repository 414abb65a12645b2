"""Resources: something that is set up before the tasks that use it, and cleaned up after them, whatever happens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec, overload

from .control import WiringScope
from .edge import Edge
from .errors import FlowDefinitionError
from .signals import SKIP
from .state import State
from .task import FunctionTask

__all__ = ["ResourceManager", "resource_manager"]

P = ParamSpec("P")


def cleanup_trigger(upstream_states: Mapping[Edge, State]) -> bool:
    """Clean up once all that used the resource is over, however it ended, if there is a resource."""
    for edge, state in upstream_states.items():
        if edge.key is None:
            continue
        if state.is_skipped():
            raise SKIP("There is nothing to clean up: setting up the resource was skipped.")
        if not state.is_successful():
            raise SKIP("There is nothing to clean up: the resource could not be set up.")
    return True


class _ResourceTask(FunctionTask[..., Any]):
    """A step in the life of a resource, which exists only in the process that set it up."""

    reruns_on_restart = True
    travels = False

    def __init__(self, fn: Callable[..., Any], name: str, **kwargs: Any) -> None:
        kwargs.setdefault("checkpoint", False)
        super().__init__(fn, name=name, **kwargs)
        self.auto_generated = True


class _CleanupTask(_ResourceTask):
    is_cleanup = True

    def __init__(self, fn: Callable[..., Any], name: str, **kwargs: Any) -> None:
        kwargs.setdefault("trigger", cleanup_trigger)
        kwargs.setdefault("skip_on_upstream_skip", False)
        super().__init__(fn, name, **kwargs)


class Resource:
    """The block of tasks that use a resource; made by calling a `ResourceManager` in a flow.

    Args:
        - init_task, setup_task, cleanup_task: the tasks of the resource; `setup_task` is None where its class sets
            nothing up
    """

    def __init__(self, init_task: Any, setup_task: Any, cleanup_task: Any) -> None:
        self.init_task = init_task
        self.setup_task = setup_task
        self.cleanup_task = cleanup_task
        self._scope = WiringScope()

    def __enter__(self) -> Any:
        self._scope.open(f"the resource {self.init_task.name!r}")
        return self.setup_task

    def __exit__(self, *exc_info: Any) -> None:
        flow = self._scope.close()
        if exc_info[0] is not None:
            return
        for task in self._scope.first_tasks(flow) if self.setup_task is not None else ():
            if self.setup_task not in flow.upstream_tasks(task):
                task.set_upstream(self.setup_task, flow=flow)
        for task in self._scope.last_tasks(flow):
            self.cleanup_task.set_upstream(task, flow=flow)


class ResourceManager(Generic[P]):
    """Makes resources in flows; made by `resource_manager`.

    Args:
        - resource_class: a class with ``setup(self)`` and ``cleanup(self, resource)``, each sync or async. Without a
            ``setup`` nothing waits for the resource, and it is None.
        - name: the name of its tasks; that of the class if None
        - init_task_kwargs, setup_task_kwargs, cleanup_task_kwargs: as for `Task`

    Raises:
        - FlowDefinitionError: if the class cannot clean up
    """

    def __init__(
        self,
        resource_class: Callable[P, Any],
        name: str | None = None,
        init_task_kwargs: Mapping[str, Any] | None = None,
        setup_task_kwargs: Mapping[str, Any] | None = None,
        cleanup_task_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.resource_class = resource_class
        self.name = name or getattr(resource_class, "__name__", type(resource_class).__name__)
        self._sets_up = hasattr(resource_class, "setup")
        for method in ("setup", "cleanup") if self._sets_up else ("cleanup",):
            if not callable(getattr(resource_class, method, None)):
                raise FlowDefinitionError(f"the resource manager {self.name!r} has no method {method}()")
        self.init_task_kwargs = dict(init_task_kwargs or {})
        self.setup_task_kwargs = dict(setup_task_kwargs or {})
        self.cleanup_task_kwargs = dict(cleanup_task_kwargs or {})

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Resource:
        """Add the tasks of a resource to the open flow: ``with Manager(...) as resource:`` is what to write.

        Args:
            - args, kwargs: go to the class; tasks or plain values
        """
        init_kwargs = {"name": self.name, **self.init_task_kwargs}
        made: Any = _ResourceTask(self.resource_class, **init_kwargs).bind(*args, **kwargs)  # type: ignore[arg-type]
        resource: Any = None
        if self._sets_up:
            setup_kwargs = {"name": f"{self.name}.setup", **self.setup_task_kwargs}
            resource = _ResourceTask(_setup_of(self.resource_class), **setup_kwargs).bind(made)
        cleanup_kwargs = {"name": f"{self.name}.cleanup", **self.cleanup_task_kwargs}
        cleanup = _CleanupTask(_cleanup_of(self.resource_class), **cleanup_kwargs)
        return Resource(made, resource, cleanup.bind(made, resource))


def _setup_of(resource_class: Any) -> Callable[..., Any]:
    """Return a function that sets up, async where the method of the class is."""

    async def setup_async(mgr: Any) -> Any:
        return await mgr.setup()

    def setup(mgr: Any) -> Any:
        return mgr.setup()

    return setup_async if inspect.iscoroutinefunction(resource_class.setup) else setup


def _cleanup_of(resource_class: Any) -> Callable[..., Any]:
    """Return a function that cleans up, async where the method of the class is."""

    async def cleanup_async(mgr: Any, resource: Any) -> Any:
        return await mgr.cleanup(resource)

    def cleanup(mgr: Any, resource: Any) -> Any:
        return mgr.cleanup(resource)

    return cleanup_async if inspect.iscoroutinefunction(resource_class.cleanup) else cleanup


@overload
def resource_manager(resource_class: Callable[P, Any], /) -> ResourceManager[P]: ...
@overload
def resource_manager(
    *,
    name: str | None = None,
    init_task_kwargs: Mapping[str, Any] | None = None,
    setup_task_kwargs: Mapping[str, Any] | None = None,
    cleanup_task_kwargs: Mapping[str, Any] | None = None,
) -> Callable[[Callable[P, Any]], ResourceManager[P]]: ...
def resource_manager(resource_class: Any = None, /, **kwargs: Any) -> Any:
    """Make a resource manager of a class.

    The tasks of the block wait until the resource is set up. It is cleaned up once all of them are over, whether they
    succeeded or not; the state of the flow is that of the tasks, not that of the cleaning up.

    Args:
        - resource_class: a class with ``setup(self)``, which returns the resource, and ``cleanup(self, resource)``;
            each sync or async
        - kwargs: as for `ResourceManager`

    Example:

        ```python
        @resource_manager
        class Pool:
            def __init__(self, size: int) -> None:
                self.size = size

            async def setup(self) -> asyncpg.Pool:
                return await asyncpg.create_pool(max_size=self.size)

            async def cleanup(self, pool: asyncpg.Pool) -> None:
                await pool.close()

        with Flow("load") as flow:
            with Pool(size=10) as pool:
                load.map(files, unmapped(pool))
        ```
    """
    if resource_class is None:
        return lambda cls: ResourceManager(cls, **kwargs)
    return ResourceManager(resource_class)
