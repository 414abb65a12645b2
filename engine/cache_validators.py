"""Cache validators: functions of a cached state, the inputs and the parameters that say whether its result may serve.

Each first looks at the expiration; a state without one never expires. Inputs are compared by their hashes where the
state has them, else by their values.

A validator has an attribute ``looks_at``, the names of the inputs that it compares (None for all of them). A run hashes
those before its body begins, and no others. Of a validator without it, nobody knows: every input that can be hashed is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from .context import now
from .errors import SerializationError
from .plain import plain
from .state import Cached

__all__ = [
    "CacheValidator",
    "all_inputs",
    "all_parameters",
    "duration_only",
    "looks_at",
    "never_use",
    "partial_inputs_only",
    "partial_parameters_only",
]

CacheValidator = Callable[[Cached, Mapping[str, Any], Mapping[str, Any]], bool | Awaitable[bool]]
_Values = Mapping[str, Any] | None
F = TypeVar("F", bound=Callable[..., Any])


def looks_at(validator: Callable[..., Any]) -> set[str] | None:
    """Return the names of the inputs that a validator compares; None if it compares all of them, or does not say."""
    names = getattr(validator, "looks_at", None)
    return None if names is None else set(names)


def _looking_at(names: Iterable[str] | None) -> Callable[[F], F]:
    def mark(validator: F) -> F:
        validator.__dict__["looks_at"] = names
        return validator

    return mark


@_looking_at(())
def never_use(state: Cached, inputs: _Values, parameters: _Values) -> bool:
    """Never serve from the cache."""
    return False


@_looking_at(())
def duration_only(state: Cached, inputs: _Values, parameters: _Values) -> bool:
    """Serve until the expiration, whatever the inputs and parameters are."""
    return state.cached_result_expiration is None or now() < state.cached_result_expiration


@_looking_at(None)
def all_inputs(state: Cached, inputs: _Values, parameters: _Values) -> bool:
    """Serve if all inputs are those of the cached run."""
    return duration_only(state, inputs, parameters) and _same_inputs(state, inputs, None)


@_looking_at(())
def all_parameters(state: Cached, inputs: _Values, parameters: _Values) -> bool:
    """Serve if all parameters of the flow run are those of the cached run."""
    return duration_only(state, inputs, parameters) and _same_parameters(state, parameters, None)


def partial_inputs_only(validate_on: Iterable[str] | None = None) -> CacheValidator:
    """Return a validator that looks at some inputs only.

    Args:
        - validate_on: names of the inputs; None looks at no input
    """
    validate_on = _names("partial_inputs_only", validate_on)

    @_looking_at(validate_on)
    def partial_inputs_only(state: Cached, inputs: _Values, parameters: _Values) -> bool:
        return duration_only(state, inputs, parameters) and _same_inputs(state, inputs, validate_on)

    return partial_inputs_only


def partial_parameters_only(validate_on: Iterable[str] | None = None) -> CacheValidator:
    """Return a validator that looks at some parameters only.

    Args:
        - validate_on: names of the parameters; None looks at no parameter
    """
    validate_on = _names("partial_parameters_only", validate_on)

    @_looking_at(())
    def partial_parameters_only(state: Cached, inputs: _Values, parameters: _Values) -> bool:
        return duration_only(state, inputs, parameters) and _same_parameters(state, parameters, validate_on)

    return partial_parameters_only


def _names(validator: str, validate_on: Iterable[str] | None) -> list[str]:
    if isinstance(validate_on, str):
        raise TypeError(f"{validator}: validate_on is a list of names, not the one string {validate_on!r}")
    return sorted(validate_on or ())


def _chosen(values: _Values, names: list[str] | None) -> dict[str, Any]:
    return {name: value for name, value in (values or {}).items() if names is None or name in names}


def _same_inputs(state: Cached, inputs: _Values, names: list[str] | None) -> bool:
    given = _chosen(inputs, names)
    if state.hashed_inputs is not None:
        from .hashing import hash_inputs

        return hash_inputs(given) == _chosen(state.hashed_inputs, names)
    cached = {name: result.value for name, result in state.cached_inputs.items()}
    return given == _chosen(cached, names)


def _same_parameters(state: Cached, parameters: _Values, names: list[str] | None) -> bool:
    given, cached = _chosen(parameters, names), _chosen(state.cached_parameters, names)
    return given.keys() == cached.keys() and all(_is_same(value, cached[name]) for name, value in given.items())


def _is_same(given: Any, cached: Any) -> bool:
    # a backend returns parameters as JSON: a tuple comes back as a list; and 1, 1.0 and true are three values there
    try:
        return _as_text(given) == _as_text(cached)
    except SerializationError:
        return bool(given == cached)


def _as_text(value: Any) -> bytes:
    return msgspec.json.encode(plain(value), order="sorted")
