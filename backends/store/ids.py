"""Identifiers: UUIDs of version 7, which sort by the time they were made.

Rows then come back in the order of their creation when they are ordered by id, and the indexes grow at
their right edge only.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable

__all__ = ["is_id", "new_ids"]

_is_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch


def is_id(value: object) -> bool:
    """Whether `value` is the text of a UUID as the store writes it; whatever is not, no row has for an id."""
    return isinstance(value, str) and _is_uuid(value) is not None


def new_ids() -> Callable[[], str]:
    """Return a function that makes ids, each greater than the ones it made before."""
    last = 0
    # asking the system for each id would cost more than making it; an id is no secret
    bits = random.Random().getrandbits  # noqa: S311

    def new_id() -> str:
        nonlocal last
        # 48 bits of milliseconds, then 12 that count within one; a burst of more borrows from the future.
        now = time.time_ns() // 1_000_000 << 12
        last = now if now > last else last + 1
        text = (last << 60 | bits(60)).to_bytes(15).hex()
        return f"{text[:8]}-{text[8:12]}-7{text[12:15]}-8{text[15:18]}-{text[18:]}"

    return new_id
