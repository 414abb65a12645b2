"""The inputs that come in thousands: decoded straight into records, their state documents left as they are."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from ..store import StateUpdate

__all__ = ["HOT_INPUTS", "SetFlowRunStates", "SetTaskRunStates", "state_updates"]

_Id = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]


class _Item(msgspec.Struct, forbid_unknown_fields=True):
    state: msgspec.Raw
    version: Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)] | None = None


class _FlowRunItem(_Item, kw_only=True, forbid_unknown_fields=True):
    flow_run_id: _Id


class _TaskRunItem(_Item, kw_only=True, forbid_unknown_fields=True):
    task_run_id: _Id


class SetFlowRunStates(msgspec.Struct, forbid_unknown_fields=True):
    """The input of ``set_flow_run_states``."""

    states: list[_FlowRunItem]

    def updates(self) -> list[StateUpdate]:
        """Return what the store takes."""
        return [StateUpdate(item.flow_run_id, bytes(item.state), item.version) for item in self.states]


class SetTaskRunStates(msgspec.Struct, forbid_unknown_fields=True):
    """The input of ``set_task_run_states``."""

    states: list[_TaskRunItem]

    def updates(self) -> list[StateUpdate]:
        """Return what the store takes."""
        return [StateUpdate(item.task_run_id, bytes(item.state), item.version) for item in self.states]


HOT_INPUTS: dict[str, type[SetFlowRunStates | SetTaskRunStates]] = {
    "set_flow_run_states": SetFlowRunStates,
    "set_task_run_states": SetTaskRunStates,
}
"""The record of each mutation whose input is decoded straight into it."""


def state_updates(states: list[dict[str, Any]], key: str) -> list[StateUpdate]:
    """Return what the store takes, from an input that came the general way."""
    return [StateUpdate(item[key], msgspec.json.encode(item["state"]), item.get("version")) for item in states]
