"""Parameters: the inputs of a whole flow."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from .context import context
from .errors import FlowDefinitionError
from .signals import FAIL
from .state import aware
from .task import Task

__all__ = ["DateTimeParameter", "Parameter", "no_default"]


class _NoDefault:
    def __repr__(self) -> str:
        return "no_default"


no_default = _NoDefault()


if TYPE_CHECKING:
    _Anything = Any  # a parameter stands for its value, so a type checker takes it wherever a value is taken
else:
    _Anything = object


class Parameter(Task[[], Any], _Anything):  # type: ignore[misc]
    """An input of a flow, given when the flow is run.

    Args:
        - name: the name, which is also the slug
        - default: the value where none is given; a parameter without one is required
        - required: whether a value must be given; true exactly if there is no default, unless said otherwise
        - tags: as for any task
        - type: what the value must be, as a type annotation (``int``, ``list[str]``, a msgspec Struct …); a value that
            comes as text, from a command line, is converted
        - secret: whether its value is masked in whatever a run writes for people: logs, tracebacks and the like

    Example:

        ```python
        with Flow("greet") as flow:
            name = Parameter("name", default="world", type=str)
        ```
    """

    travels = False

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
        self.default = default if has_default else None
        self.type = type
        self.secret = secret
        from .results import PrefectResult

        super().__init__(name=name, slug=name, tags=tags, checkpoint=True, result=PrefectResult())
        self.cast(self.default) if has_default and default is not None else None
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
        return new

    def cast(self, value: Any, *, from_text: bool = False) -> Any:
        """Return `value` as the type of this parameter.

        Args:
            - value: the value
            - from_text: whether it comes as text, as from a command line

        Raises:
            - FlowDefinitionError: if it cannot be that type
        """
        if self.type is Any or (value is None and not self.required):
            return value
        try:
            if from_text and isinstance(value, str):
                return self._cast_text(value)
            return msgspec.convert(value, self.type)
        except msgspec.ValidationError as error:
            wanted = self.type.__name__ if isinstance(self.type, type) else str(self.type)
            raise FlowDefinitionError(f"parameter {self.name!r}: {value!r} is not {wanted}: {error}") from None

    def _cast_text(self, text: str) -> Any:
        try:
            return msgspec.convert(text, self.type, strict=False)
        except msgspec.ValidationError:
            try:
                return msgspec.json.decode(text, type=self.type)
            except msgspec.ValidationError:
                raise
            except msgspec.DecodeError:
                return msgspec.convert(text, self.type, strict=False)

    async def run(self) -> Any:
        """Return the value given for this run, or the default.

        Raises:
            - FAIL: if there is neither
        """
        given = context.get("parameters") or {}
        if self.name in given:
            return self.cast(given[self.name])
        if self.required:
            raise FAIL(f"parameter {self.name!r} is required but was not given")
        return self.default

    def serialize(self) -> dict[str, Any]:
        """Return the document of this parameter as the API knows it."""
        from .serialization import serialize_parameter

        return serialize_parameter(self)

    def __repr__(self) -> str:
        return f"<Parameter: {self.name}>"


class DateTimeParameter(Parameter):
    """A parameter that is a time; text in ISO 8601 is converted.

    Args:
        - name: the name
        - required: whether a value must be given
        - tags: as for any task
    """

    def __init__(self, name: str, required: bool = True, tags: Iterable[str] | None = None) -> None:
        super().__init__(name, default=no_default if required else None, required=required, tags=tags)

    def cast(self, value: Any, *, from_text: bool = False) -> Any:
        """Return `value` as an aware datetime."""
        if value is None or isinstance(value, datetime.datetime):
            return None if value is None else aware(value)
        try:
            return aware(datetime.datetime.fromisoformat(str(value)))
        except ValueError:
            raise FlowDefinitionError(f"parameter {self.name!r}: {value!r} is not a time in ISO 8601") from None
