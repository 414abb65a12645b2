"""The documents that states, flows, tasks and edges travel and rest in: JSON objects of the Prefect 1 dialect."""

from __future__ import annotations

from .states import VERSION, decode_state, deserialize_state, encode_state, serialize_state

__all__ = [
    "VERSION",
    "decode_state",
    "deserialize_state",
    "encode_state",
    "serialize_state",
]
