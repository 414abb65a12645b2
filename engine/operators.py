"""The small tasks that a flow makes by itself: constants, collections, indexing and operators."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, ClassVar

from ._containers import is_small, rebuilt
from .task import Task

__all__ = [
    "Add",
    "And",
    "Constant",
    "Container",
    "Dict",
    "Div",
    "Equal",
    "FloorDiv",
    "GetAttr",
    "GetItem",
    "GreaterThan",
    "GreaterThanOrEqual",
    "LessThan",
    "LessThanOrEqual",
    "List",
    "Mod",
    "Mul",
    "Not",
    "NotEqual",
    "Or",
    "Pow",
    "Set",
    "Sub",
    "Tuple",
]


class _Generated(Task[..., Any]):
    """A task that nobody wrote: its result is computed anew rather than stored."""

    reruns_on_restart = True
    travels = False

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("checkpoint", False)
        super().__init__(name=name, **kwargs)
        self.auto_generated = True


class Constant(_Generated):
    """A value that does not change.

    Args:
        - value: the value
    """

    def __init__(self, value: Any, name: str | None = None, **kwargs: Any) -> None:
        self.value = value
        super().__init__(name=name or f"Constant[{type(value).__name__}]", **kwargs)
        self.gives_copies = is_small(value)

    async def run(self) -> Any:
        """Return the value."""
        return self.value


class _Collection(_Generated):
    """Builds a collection of its inputs, which are called ``arg_1``, ``arg_2`` and so on."""

    build: ClassVar[Callable[..., Any]]

    async def run(self, **items: Any) -> Any:
        """Return the collection, in the order of the numbers."""
        ordered = sorted(items.items(), key=lambda item: int(item[0].removeprefix("arg_")))
        return type(self).build(value for _, value in ordered)


class List(_Collection):
    """Builds a list."""

    build = list


class Tuple(_Collection):
    """Builds a tuple."""

    build = tuple


class Set(_Collection):
    """Builds a set."""

    build = set


class Container(_Generated):
    """Builds a container, or a record with fields, of the same type as another one.

    Args:
        - template: that other one; the inputs, called ``arg_1``, ``arg_2`` and so on, take the place of its parts
    """

    def __init__(self, template: Any, name: str | None = None, **kwargs: Any) -> None:
        self.template = template
        super().__init__(name=name or type(template).__name__, **kwargs)

    async def run(self, **items: Any) -> Any:
        """Return the container, its parts in the order of the numbers."""
        return rebuilt(self.template, [items[f"arg_{number}"] for number in range(1, len(items) + 1)])


class Dict(_Generated):
    """Builds a dict of a list of keys and a list of values."""

    async def run(self, keys: list[Any], values: list[Any]) -> dict[Any, Any]:
        """Return the dict."""
        return dict(zip(keys, values, strict=True))


class _NoDefault:
    def __repr__(self) -> str:
        return "no_default"


_NO_DEFAULT = _NoDefault()


class _Getter(_Generated):
    """Takes a part of a value.

    Args:
        - default: what to take where there is no such part; without one that is an error
        - kwargs: as for `Task`
    """

    def __init__(self, default: Any = _NO_DEFAULT, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.default = default

    def _default(self, given: Any, error: LookupError | AttributeError) -> Any:
        default = self.default if given is _NO_DEFAULT else given
        if default is _NO_DEFAULT:
            raise error
        return default


class GetItem(_Getter):
    """Takes an element of a value: ``value[key]``."""

    async def run(self, value: Any, key: Any, default: Any = _NO_DEFAULT) -> Any:
        """Return the element, or the default."""
        try:
            return value[key]
        except LookupError as error:
            return self._default(default, error)


class GetAttr(_Getter):
    """Takes an attribute of a value; one of its attributes where the name has dots.

    Example:

        ```python
        street = GetAttr()(customer, "address.street")
        ```
    """

    async def run(self, value: Any, attr: str, default: Any = _NO_DEFAULT) -> Any:
        """Return the attribute, or the default."""
        try:
            return operator.attrgetter(attr)(value)
        except AttributeError as error:
            return self._default(default, error)


class _Binary(_Generated):
    function: ClassVar[Callable[[Any, Any], Any]]

    async def run(self, x: Any, y: Any) -> Any:
        """Apply the operator."""
        return type(self).function(x, y)


def _binary(name: str, function: Callable[[Any, Any], Any], doc: str) -> type[_Binary]:
    return type(name, (_Binary,), {"function": staticmethod(function), "__doc__": doc, "__module__": __name__})


Add = _binary("Add", operator.add, "x + y")
Sub = _binary("Sub", operator.sub, "x - y")
Mul = _binary("Mul", operator.mul, "x * y")
Div = _binary("Div", operator.truediv, "x / y")
FloorDiv = _binary("FloorDiv", operator.floordiv, "x // y")
Mod = _binary("Mod", operator.mod, "x % y")
Pow = _binary("Pow", operator.pow, "x ** y")
Equal = _binary("Equal", operator.eq, "x == y")
NotEqual = _binary("NotEqual", operator.ne, "x != y")
GreaterThan = _binary("GreaterThan", operator.gt, "x > y")
GreaterThanOrEqual = _binary("GreaterThanOrEqual", operator.ge, "x >= y")
LessThan = _binary("LessThan", operator.lt, "x < y")
LessThanOrEqual = _binary("LessThanOrEqual", operator.le, "x <= y")
And = _binary("And", lambda x, y: x and y, "x and y")
Or = _binary("Or", lambda x, y: x or y, "x or y")


class Not(_Generated):
    """Negates a value."""

    async def run(self, x: Any) -> bool:
        """Return ``not x``."""
        return not x
