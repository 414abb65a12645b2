"""The documents that states, flows, tasks and edges travel and rest in: JSON objects of the Prefect 1 dialect."""

from __future__ import annotations

from .flows import function_reference, serialize_edge, serialize_flow, serialize_parameter, serialize_task
from .states import VERSION, decode_state, deserialize_state, encode_state, serialize_state

__all__ = [
    "VERSION",
    "decode_state",
    "deserialize_state",
    "encode_state",
    "function_reference",
    "serialize_edge",
    "serialize_flow",
    "serialize_parameter",
    "serialize_state",
    "serialize_task",
]
