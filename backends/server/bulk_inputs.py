"""The inputs that come in thousands: decoded straight into records, their state documents left as they are.

A record is laxer than the schema in one way (any text of the length of an id passes) and stricter in others: whatever
does not fit it is read the general way, which finds the words for what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from ..store import StateUpdate

__all__ = ["HOT_INPUTS", "SetFlowRunStates", "SetTaskRunStates", "decode", "decoder", "state_updates"]

_Id = Annotated[str, msgspec.Meta(min_length=36, max_length=36)]
_Int = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]


class _FlowRunItem(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    flow_run_id: _Id
    state: msgspec.Raw
    version: _Int | None = None
    epoch: _Int | None = None
    rests_on: tuple[_Id, ...] = ()


class _TaskRunItem(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    task_run_id: _Id
    state: msgspec.Raw
    version: _Int | None = None
    epoch: _Int | None = None
    rests_on: tuple[_Id, ...] = ()


class SetFlowRunStates(msgspec.Struct, forbid_unknown_fields=True):
    """The input of ``set_flow_run_states``."""

    states: list[_FlowRunItem]

    def updates(self) -> list[StateUpdate]:
        """Return what the store takes."""
        return [
            StateUpdate(item.flow_run_id.lower(), bytes(item.state), item.version, item.epoch, item.rests_on)
            for item in self.states
        ]


class SetTaskRunStates(msgspec.Struct, forbid_unknown_fields=True):
    """The input of ``set_task_run_states``."""

    states: list[_TaskRunItem]

    def updates(self) -> list[StateUpdate]:
        """Return what the store takes."""
        return [
            StateUpdate(item.task_run_id.lower(), bytes(item.state), item.version, item.epoch, item.rests_on)
            for item in self.states
        ]


HOT_INPUTS: dict[str, type[SetFlowRunStates | SetTaskRunStates]] = {
    "set_flow_run_states": SetFlowRunStates,
    "set_task_run_states": SetTaskRunStates,
}
"""The record of each mutation whose input is decoded straight into it."""


def decoder(variables: Mapping[str, str]) -> msgspec.json.Decoder[Any] | None:
    """Return what decodes the variables of a mutation, or None if nothing in it is hot.

    Args:
        - variables: the mutation that each variable is the input of

    Returns:
        - Decoder: of a record with a field for each variable: the record of its mutation, or undecoded JSON
    """
    if not any(field in HOT_INPUTS for field in variables.values()):
        return None
    fields = [(name, HOT_INPUTS.get(field, msgspec.Raw)) for name, field in variables.items()]
    return msgspec.json.Decoder(msgspec.defstruct("Variables", fields))


def decode(
    decoder: msgspec.json.Decoder[Any], text: bytes | msgspec.Raw
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the variables of a mutation, the records of hot inputs and all others; or None if they do not fit."""
    try:
        given = msgspec.structs.asdict(decoder.decode(text))
        hot = {name: value for name, value in given.items() if not isinstance(value, msgspec.Raw)}
        others = {name: msgspec.json.decode(value) for name, value in given.items() if name not in hot}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    fits = all(bytes(item.state)[:1] == b"{" for value in hot.values() for item in value.states)
    return (hot, others) if fits else None


def state_updates(states: list[dict[str, Any]], key: str) -> list[StateUpdate]:
    """Return what the store takes, from an input that came the general way."""
    return [
        StateUpdate(
            item[key],
            msgspec.json.encode(item["state"]),
            item.get("version"),
            item.get("epoch"),
            tuple(item.get("rests_on") or ()),
        )
        for item in states
    ]
