"""Results: a value, and where it is stored.

A state never carries a bare value but a `Result`. The base class here stores nothing: a value lives as long as
the process. Its subclasses in `flowloop.engine.results` read and write somewhere, so that another process can go on.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, ClassVar, Self, final

from ._at_once import answered, gives_coroutines
from .context import now, values
from .errors import FlowloopError, SerializationError
from .serializers import PickleSerializer, Serializer

__all__ = [
    "NoResult",
    "NoResultType",
    "NotStored",
    "Result",
    "ResultDamaged",
    "ResultNotFound",
    "ResultNotImplementedError",
]


class ResultNotImplementedError(FlowloopError, NotImplementedError):
    """This result does not store values; the runner takes it to mean "no checkpoint"."""


class ResultNotFound(FlowloopError, FileNotFoundError):
    """Nothing is stored at this location."""


class ResultDamaged(SerializationError):
    """What is stored at this location is not what was recorded."""


class Result:
    """A value and the place it is stored at.

    Args:
        - value: the value itself
        - location: where it is stored: a path, a key, a template in ``str.format`` style that is filled from the run's
            parameters, context and task inputs, or a function of those that returns a location or such a template
        - serializer: how the value becomes bytes; cloudpickle by default

    A subclass writes ``async def read``, ``write`` and ``exists``, in the last two a ``/`` after their first argument,
    because an input of the task may have its name. In the document of a state it is a ``CustomResult``, of which the
    location travels: whoever reads the value needs a result of the same kind, as the task has one.
    """

    __slots__ = ("_location_function", "is_recorded", "location", "serializer", "unknown_fields", "value")

    serializer_default: ClassVar[Serializer] = PickleSerializer()
    wire_type: ClassVar[str] = "Result"
    wire_fields: ClassVar[tuple[str, ...]] = ("location",)
    wire_facts: ClassVar[tuple[str, ...]] = ()
    """Further fields of the document, which it has where they are known."""
    is_unsynced = False
    """Whether what was written may still be lost with the power; see `flowloop.engine.results.syncing`."""
    is_written_anywhere: ClassVar[bool] = False
    """Whether a body that runs elsewhere may write its result there; that it can be seen from here is made sure of."""
    reads_kinds: ClassVar[tuple[type[Result], ...]] = ()
    """Other classes, of which this one writes results, and knows better than their documents how to read them."""
    wire_types: ClassVar[dict[str, type[Result]]] = {}
    """The classes that the documents of states know by name; see `flowloop.engine.serialization`."""

    def _repr_html_(self) -> str:
        from .notebook import result_html

        return result_html(self)

    def __init_subclass__(
        cls, *, wire_type: str | None = None, wire_fields: tuple[str, ...] = ("location",), **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.wire_type, cls.wire_fields = wire_type or "CustomResult", wire_fields
        if wire_type is not None:
            Result.wire_types[wire_type] = cls

    def __init__(
        self,
        value: Any = None,
        location: str | Callable[..., str] | None = None,
        serializer: Serializer | None = None,
    ) -> None:
        self.value = value
        self.serializer = serializer or self.serializer_default
        self.unknown_fields: dict[str, Any] | None = None
        self.is_recorded = False  # whether it came with the document of a state, so that others chose where it leads
        self.location: str | None = None
        self._location_function: Callable[..., str] | None = None
        if location is not None:
            self.location, self._location_function = _location(location)

    @property
    def default_location(self) -> str:
        """A new location, for a value that was given none."""
        day = now()
        return f"{day.year}/{day.month}/{day.day}/{uuid.uuid4()}.flowloop_result"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result) or type(self) is not type(other):
            return NotImplemented
        return bool(_public(self) == _public(other))

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.location or self.value!r}>"

    def copy(self) -> Self:
        """Return a shallow copy."""
        new = object.__new__(type(self))
        for name in Result.__slots__:
            setattr(new, name, getattr(self, name))
        own = getattr(self, "__dict__", None)
        if own:
            new.__dict__.update(own)
        return new

    def at(self, location: str | Callable[..., str] | None) -> Self:
        """Return a copy that is stored at `location`: a template or a function too, or None for a place of its own."""
        new = self.copy()
        new.location, new._location_function = _location(location)
        return new

    def from_value(self, value: Any) -> Self:
        """Return a copy that holds `value` and has no location yet."""
        if type(self) is Result:
            return type(self)(value, None, self.serializer)
        new = self.copy()
        new.location = None
        new.value = value
        return new

    def _in_the_state(self, value: Any) -> Result | None:
        """Return what `write` would, if that needs nothing but the value, because the state itself carries it."""
        return None

    def format(self, /, **kwargs: Any) -> Self:
        """Return a copy whose location is filled in.

        Args:
            - kwargs: values for the template, the inputs of the task as a rule; behind them stands the run's context,
                and behind that its parameters

        Raises:
            - SerializationError: if the template names something that is in none of them, or a function in its place
                gives no text
        """
        new = self.copy()
        if new._location_function is not None:
            new.location, new._location_function = _said(new._location_function(**_template_values(kwargs))), None
        if new.location is None:
            new.location = new.default_location
        elif "{" in new.location or "}" in new.location:
            filled = _filled(new.location, _template_values(kwargs))
            self._check_filled(new.location, filled)
            new.location = filled
        return new

    def _check_filled(self, template: str, location: str) -> None:
        """Raise if a location, which values from outside were filled into, is not where its template is."""

    async def check_recorded(self, location: str) -> None:
        """Check that a location is to be read that came with a recorded state.

        Raises:
            - ResultNotTrusted: if it is in no place that the flow or the settings name
        """

    def expecting(self, stored: Result) -> Result:
        """Return the result to read with what `stored` says was written: anything else is refused."""
        return self

    async def read(self, location: str) -> Self:
        """Read a value.

        Args:
            - location: where it is stored

        Returns:
            - Result: a new result with the value and the location
        """
        raise ResultNotImplementedError(f"{type(self).__name__} does not read values from anywhere")

    async def write(self, value: Any, /, **kwargs: Any) -> Result:
        """Write a value.

        Args:
            - value: the value to store
            - kwargs: values for the template of the location

        Returns:
            - Result: a new result with the value and the location it is now stored at
        """
        raise ResultNotImplementedError(f"{type(self).__name__} does not write values anywhere")

    async def remove(self, location: str) -> None:
        """Remove what is stored at a location, if anything is.

        Args:
            - location: where
        """
        raise ResultNotImplementedError(f"{type(self).__name__} does not remove results")

    async def exists(self, location: str, /, **kwargs: Any) -> bool:
        """Tell whether there is a value at `location`, its template filled from `kwargs`."""
        raise ResultNotImplementedError(
            f"{type(self).__name__} does not store values anywhere: give a result= that does"
        )


Result.wire_types["Result"] = Result


def _location(given: str | Callable[..., str] | None) -> tuple[str | None, Callable[..., str] | None]:
    if given is None or isinstance(given, str):
        return given, None
    if callable(given) and not gives_coroutines(given):
        return None, given
    raise TypeError(f"a result's location is a str or a function that is not async, not {given!r}")


def _said(location: Any) -> str | None:
    try:
        location = answered(location, "the function of a result's location, or of a task's target,")
    except TypeError as error:
        raise SerializationError(str(error)) from None
    if location is not None and not isinstance(location, str):
        raise SerializationError(f"the function of a result's location gave {location!r}, which is no text")
    return location


def _template_values(kwargs: dict[str, Any]) -> dict[str, Any]:
    current = values.get()
    return {**current.get("parameters", {}), **current, **kwargs}


def _filled(template: str, names: dict[str, Any]) -> str:
    try:
        return template.format(**names)
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise SerializationError(
            f"the result location {template!r} cannot be filled in ({type(error).__name__}: {error}): "
            f"the task inputs, the run context and the parameters have {', '.join(sorted(names)) or 'nothing'}"
        ) from error


def _public(result: Result) -> tuple[Any, ...]:
    given = getattr(result, "__dict__", {})
    own = {name: value for name, value in given.items() if name[0] != "_" and name not in result.wire_facts}
    return (result.value, result.location, result.serializer, own)


@final
class NoResultType(Result, wire_type="NoResultType", wire_fields=()):
    """The type of `NoResult`: a state that carries no result at all, not even None."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return "<No result>"

    def __str__(self) -> str:
        return "NoResult"

    def copy(self) -> NoResultType:
        """Return the one instance."""
        return self

    def __copy__(self) -> NoResultType:
        return self

    def __deepcopy__(self, memo: object) -> NoResultType:
        return self

    def __reduce__(self) -> str:
        return "NoResult"


NoResult = NoResultType()

NotStored = Result()
"""A result that was there: it was lost with the process that made it, or let go."""
