"""Parameters: the inputs of a whole flow."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, Self, overload

from ._containers import is_small, is_too_deep
from ._generic import TypeVar
from ._one_pass import is_one_pass
from .context import context
from .errors import FlowDefinitionError, SerializationError
from .plain import as_recorded, plain, supports, typed, typed_text
from .signals import FAIL
from .state import aware
from .task import Task, holds_task

__all__ = ["DateTimeParameter", "Parameter", "no_default"]


class _NoDefault:
    def __repr__(self) -> str:
        return "no_default"


no_default = _NoDefault()


T = TypeVar("T", default=Any)

if TYPE_CHECKING:
    from .result import Result

    _Anything = Any  # a parameter stands for its value, so a type checker takes it wherever a value is taken
else:
    _Anything = object


class Parameter(Task[[], T], Generic[T], _Anything):  # type: ignore[misc]
    """An input of a flow, given when the flow is run.

    Args:
        - name: the name, which is also the slug
        - default: the value where none is given; a parameter without one is required
        - required: whether a value must be given; true exactly if there is no default, unless said otherwise
        - tags: as for any task
        - type: what the value must be, as a type annotation (``int``, ``list[str]``, a dataclass, an enum, a path, a
            pydantic model …); plain data, as JSON knows it, is converted, and so is text from a command line. In a
            recorded run the value has its type in every process
        - secret: whether its value is masked in whatever a run writes for people: logs, tracebacks and the like

    Example:

        ```python
        with Flow("greet") as flow:
            name = Parameter("name", default="world", type=str)
        ```
    """

    travels = False

    document_schema: Any = None
    """The JSON schema of the values, where it is known from a document; else that of the type."""

    if TYPE_CHECKING:

        def __new__(cls, *args: Any, type: type[T] | Any = Any, **kwargs: Any) -> Self:  # noqa: D102 # as pyright reads a call
            ...

    @overload  # as mypy reads it
    def __init__(
        self,
        name: str,
        default: Any = ...,
        required: bool | None = ...,
        tags: Iterable[str] | None = ...,
        *,
        type: type[T],
        secret: bool = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        default: Any = ...,
        required: bool | None = ...,
        tags: Iterable[str] | None = ...,
        *,
        type: Any = ...,
        secret: bool = ...,
    ) -> None: ...
    def __init__(
        self,
        name: str,
        default: Any = no_default,
        required: bool | None = None,
        tags: Iterable[str] | None = None,
        *,
        type: Any = Any,
        secret: bool = False,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise FlowDefinitionError(f"a parameter's name is a text that is not empty, not {name!r}")
        has_default = not isinstance(default, _NoDefault)
        self.required = not has_default if required is None else required
        if self.required and has_default and default is not None:
            raise FlowDefinitionError(f"parameter {name!r} is required, so its default {default!r} is never used")
        self.type = type
        self.secret = secret
        self.default: Any = default if has_default else None
        if is_too_deep(self.default):
            raise FlowDefinitionError(f"parameter {name!r}: its default contains itself, or is nested too deep")
        if is_one_pass(self.default):
            raise FlowDefinitionError(f"parameter {name!r}: its default can be read only once: give list(...)")
        if holds_task(self.default):
            raise FlowDefinitionError(
                f"parameter {name!r}: its default holds a task, whose result it would never get: give a plain value"
            )
        super().__init__(name=name, slug=name, tags=tags, checkpoint=not secret, result=self._own_result())
        self.reruns_on_restart = secret  # the flow run has its value
        if (problem := supports(type)) is not None:
            raise FlowDefinitionError(f"parameter {name!r} cannot have the type {_shown(type)}: {problem}")
        if self.default is not None:
            self.default = self.cast(self.default)
        self.gives_copies = is_small(self.default)
        flow = context.get("flow")
        if flow is not None:
            flow.add_task(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Add this parameter to a flow; a parameter is never copied.

        Raises:
            - FlowDefinitionError: if it is given inputs
        """
        if args or kwargs.get("upstream_tasks") or kwargs.get("mapped"):
            raise FlowDefinitionError(f"parameter {self.name!r} takes no inputs and waits for nothing")
        flow = kwargs.get("flow") or context.get("flow")
        if flow is None:
            raise FlowDefinitionError(f"parameter {self.name!r} was called outside a flow")
        flow.add_task(self)
        return self

    def copy(self, name: str | None = None, **task_args: Any) -> Any:
        """Return a copy, under another name if one is given."""
        new = super().copy(**task_args)
        if name is not None:
            new.name = new.slug = name
        new.result = new._own_result()
        return new

    def _own_result(self) -> Result:
        from .results import SecretResult, TypedResult

        return SecretResult(self) if self.secret else TypedResult(self.restored)

    def cast(self, value: Any, *, from_text: bool = False) -> Any:
        """Return `value` as the type of this parameter.

        Args:
            - value: the value
            - from_text: whether it comes as text, as from a command line

        Raises:
            - FlowDefinitionError: if it cannot be that type
        """
        if self.type is Any or (value is None and not self.required and self.default is None):
            return value
        try:
            return typed_text(value, self.type) if from_text and isinstance(value, str) else typed(value, self.type)
        except ValueError as error:
            raise FlowDefinitionError(
                f"parameter {self.name!r}: {value!r} is not {_shown(self.type)}: {error}"
            ) from None

    def recorded(self, value: Any) -> Any:
        """Return a value as a flow run records it: as what JSON knows.

        Raises:
            - FlowDefinitionError: if JSON cannot carry the value, NaN and the infinities included, or if it would come
                back as another one, as a secret inside a pydantic model does
        """
        try:
            found = plain(value)
        except SerializationError as error:
            raise FlowDefinitionError(f"parameter {self.name!r} cannot be recorded: {error}") from None
        if hasattr(value, "__pydantic_validator__") and self.type is not Any and self.cast(found) != value:
            raise FlowDefinitionError(
                f"parameter {self.name!r} cannot be recorded: JSON makes another {_shown(self.type)} of {value!r}"
            )
        return found

    def restored(self, found: Any) -> Any:
        """Return the value of what `recorded` made of it."""
        if self.type is Any and self.default is not None and found == as_recorded(self.default):
            return copy.deepcopy(self.default)
        return self.cast(found)

    async def run(self) -> T:
        """Return the value given for this run, or the default.

        Raises:
            - FAIL: if there is neither
        """
        given = context.get("parameters") or {}
        if self.name in given:
            return self.cast(given[self.name])  # type: ignore[no-any-return]
        if self.required:
            raise FAIL(f"parameter {self.name!r} is required but was not given")
        return self.default  # type: ignore[no-any-return]

    def outputs(self) -> Any:
        """Return the type of the value as documents have it: what it must be, they do not say."""
        return Any

    def serialize(self) -> dict[str, Any]:
        """Return the document of this parameter as the API knows it."""
        from .serialization import serialize_parameter

        return serialize_parameter(self)

    def __repr__(self) -> str:
        return f"<Parameter: {self.name}>"


def _shown(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)


class DateTimeParameter(Parameter[datetime.datetime]):
    """A parameter that is a time; text in ISO 8601 is converted, and a time without a zone is taken to be UTC.

    Args:
        - name: the name
        - required: whether a value must be given; true exactly if there is no default, unless said otherwise
        - tags: as for any task
        - default: the time where none is given
    """

    def __init__(
        self,
        name: str,
        required: bool | None = None,
        tags: Iterable[str] | None = None,
        *,
        default: Any = no_default,
    ) -> None:
        if required is False and isinstance(default, _NoDefault):
            default = None
        super().__init__(name, default, required, tags, type=datetime.datetime)

    def cast(self, value: Any, *, from_text: bool = False) -> Any:
        """Return `value` as an aware datetime."""
        if value is None and not self.required and self.default is None:
            return None
        if isinstance(value, str):
            value = value.strip()
        found: datetime.datetime = super().cast(value, from_text=from_text)
        return aware(found)
