"""Edges: what flows from one task to another."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import FlowDefinitionError

if TYPE_CHECKING:
    from .task import Task

__all__ = ["Edge", "EdgeAnnotation", "flatten", "mapped", "unmapped"]


class EdgeAnnotation:
    """Says how a value is to be passed to a task: see `mapped`, `unmapped` and `flatten`.

    Args:
        - value: a task, or any value
    """

    def __init__(self, value: Any) -> None:
        self.value: Any = value.value if isinstance(value, EdgeAnnotation) else value
        self.mapped: bool | None = value.mapped if isinstance(value, EdgeAnnotation) else None
        self.flattened: bool = value.flattened if isinstance(value, EdgeAnnotation) else False

    def pipe(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return ``function(self, *args, **kwargs)``, to write a chain from left to right."""
        return function(self, *args, **kwargs)


class mapped(EdgeAnnotation):  # noqa: N801
    """Run the task once for each element of `value`."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.mapped = True


class unmapped(EdgeAnnotation):  # noqa: N801
    """Pass `value` whole to every child of a mapped task."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.mapped = False


class flatten(EdgeAnnotation):  # noqa: N801
    """Take one level of nesting out of `value` before it is passed or mapped over."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.flattened = True


class Edge:
    """A dependency of one task on another.

    Args:
        - upstream_task: the task that is waited for; an annotation around it (`mapped`, `unmapped`, `flatten`) wins
            over the flags
        - downstream_task: the task that waits
        - key: the argument of the downstream task that gets the upstream result; None passes nothing
        - mapped: whether the downstream task runs once for each element of the result
        - flattened: whether one level of nesting is taken out of the result first
        - flow: kept for compatibility, not used

    Raises:
        - FlowDefinitionError: if one end is no task, both are the same, or `key` is not an identifier
    """

    __slots__ = ("_hash", "downstream_task", "flattened", "key", "mapped", "upstream_task")

    def __init__(
        self,
        upstream_task: Any,
        downstream_task: Any,
        key: str | None = None,
        mapped: bool = False,
        flattened: bool = False,
        flow: Any = None,
    ) -> None:
        if isinstance(upstream_task, EdgeAnnotation):
            mapped = mapped if upstream_task.mapped is None else upstream_task.mapped
            flattened = flattened or upstream_task.flattened
            upstream_task = upstream_task.value
        for end in (upstream_task, downstream_task):
            if not hasattr(end, "name"):
                raise FlowDefinitionError(f"an edge leads from one task to another, and {end!r} is none")
        if upstream_task is downstream_task:
            raise FlowDefinitionError(f"task {upstream_task.name!r} cannot depend on itself")
        if key is not None and (not isinstance(key, str) or not key.isidentifier() or keyword.iskeyword(key)):
            raise FlowDefinitionError(
                f"the edge {upstream_task.name!r} -> {downstream_task.name!r} has the key {key!r}, "
                "which is not a name that an argument can have"
            )
        self.upstream_task: Task[..., Any] = upstream_task
        self.downstream_task: Task[..., Any] = downstream_task
        self.key = key
        self.mapped = mapped
        self.flattened = flattened
        self._hash = hash((id(upstream_task), id(downstream_task), key, mapped, flattened))

    @staticmethod
    def deserialize(document: Mapping[str, Any]) -> Edge:
        """Return the edge of a document, between tasks of which only the slugs are known.

        Raises:
            - DialectError: if the document is not that of an edge
        """
        from .documents import deserialize_edge

        return deserialize_edge(document)

    @property
    def tasks(self) -> set[Task[..., Any]]:
        """Both tasks."""
        return {self.upstream_task, self.downstream_task}

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        assert isinstance(other, Edge)
        return (
            self.upstream_task is other.upstream_task
            and self.downstream_task is other.downstream_task
            and self.key == other.key
            and self.mapped == other.mapped
            and self.flattened == other.flattened
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        key = f" (key={self.key})" if self.key else ""
        return f"<Edge{key}: {self.upstream_task.name} to {self.downstream_task.name}>"

    def serialize(self) -> dict[str, Any]:
        """Return the document of this edge as the API knows it."""
        from .serialization import serialize_edge

        return serialize_edge(self)
