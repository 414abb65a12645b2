"""What a result that may serve later runs is filed under: the identity of the inputs, taken before the body runs.

A body may change what it is given, so that afterwards nobody can tell any more what it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from ..cache_validators import looks_at
from ..errors import FlowDefinitionError, SerializationError
from ..hashing import hash_inputs
from ..state import Cached

if TYPE_CHECKING:
    from ..task import Task

__all__ = [
    "Identity",
    "check_known_input",
    "counted",
    "identity_of",
    "is_of_this_child",
    "told_by",
]

Identity = dict[str, str]
"""A hash of each input that counts, by name."""


def told_by(task: Task[..., Any], mapped: Collection[str]) -> set[str]:
    """Return by which inputs the children of a map are told apart although the validator does not look at them.

    If it looks at none of what they are mapped over, it is all of that: no child may be given the result of another.
    """
    looked_at = looks_at(task.cache_validator)
    return set() if looked_at is None or looked_at & set(mapped) else set(mapped)


def counted(task: Task[..., Any], names: Collection[str], mapped: Collection[str]) -> set[str]:
    """Return which inputs make a difference to whether a result may serve.

    Args:
        - task: the task
        - names: its inputs
        - mapped: those of them that a child is mapped over; none for a task that is not mapped
    """
    looked_at = looks_at(task.cache_validator)
    return set(names) if looked_at is None else (looked_at & set(names)) | told_by(task, mapped)


def identity_of(task: Task[..., Any], inputs: Mapping[str, Any], mapped: Collection[str]) -> Identity:
    """Return the identity of inputs, for a task whose results may serve later runs.

    Of a validator that does not say what it looks at, nobody knows what it can do without: what cannot be hashed is
    left out then.

    Raises:
        - SerializationError: if an input that counts cannot be hashed; it names the task and the input
    """
    found: Identity = {}
    for name in sorted(counted(task, inputs, mapped)):
        try:
            found |= hash_inputs({name: inputs[name]})
        except SerializationError as error:
            if hasattr(task.cache_validator, "looks_at") or name in mapped:
                raise SerializationError(f"task '{task.name}': {error}") from None
    return found


def check_known_input(task: Task[..., Any], name: str, value: Any) -> None:
    """Check an input that is known when the flow is built.

    Raises:
        - FlowDefinitionError: if the task's results may serve later runs, and the input counts and cannot be hashed
    """
    if task.cache_for is None:
        return
    try:
        identity_of(task, {name: value}, ())
    except SerializationError as error:
        raise FlowDefinitionError(str(error)) from None


def is_of_this_child(cached: Cached, identity: Identity, told_by: Collection[str], flow_run_id: str | None) -> bool:
    """Tell whether a cached result may be that of this mapped child, and not of one beside it.

    Args:
        - cached: the result
        - identity: of the child's inputs
        - told_by: names of those that tell it apart
        - flow_run_id: the flow run that is going on: no child takes the result of another one in it
    """
    if flow_run_id is not None and cached.context.get("flow_run_id") == flow_run_id:
        return False
    known = cached.hashed_inputs or {}
    return all(known.get(name) == identity[name] for name in told_by)
