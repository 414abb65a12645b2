"""Masking: values that a run knows and that nothing may write down.

While a flow run goes on it keeps a list of such values: its secrets, and its parameters that are marked secret.
Whatever is written about the run, a log line or a traceback, passes through `masked` first. A nested flow run also
hides what the one around it hides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote

__all__ = ["MASK", "Mask", "hide", "hiding", "masked"]

MASK = "***"
_ESCAPES = {"\n": "n", "\r": "r", "\t": "t"}
_SHORT = 4
"""Shorter texts are masked only where they stand alone: masked inside of words they would hide all else, too."""

hiding: ContextVar[Mask | None] = ContextVar("flowloop_hiding", default=None)
"""The mask of the flow run that goes on."""


class Mask:
    """The values that one flow run hides.

    Args:
        - outer: the mask of the flow run around it
    """

    __slots__ = ("_pattern", "_texts")

    def __init__(self, outer: Mask | None = None) -> None:
        self._texts: set[str] = set() if outer is None else set(outer._texts)
        self._pattern: re.Pattern[str] | None = None

    def add(self, value: Any) -> None:
        """Hide a value: a text, or every text and number inside of it."""
        self._texts.update(form for text in _leaves(value) for form in _forms(text))
        self._pattern = None

    @property
    def hides_anything(self) -> bool:
        """Whether there is a value to hide."""
        return bool(self._texts)

    def masked(self, text: str) -> str:
        """Return a text without the values that are hidden."""
        if not self._texts:
            return text
        if self._pattern is None:
            longest_first = sorted(self._texts, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(_pattern, longest_first)))
        return self._pattern.sub(MASK, text)


def hide(value: Any) -> Any:
    """Have the flow run that goes on hide a value wherever it writes, and return the value."""
    mask = hiding.get()
    if mask is not None:
        mask.add(value)
    return value


def masked(text: str) -> str:
    """Return a text without the values that the flow run that goes on hides."""
    mask = hiding.get()
    return text if mask is None else mask.masked(text)


def _pattern(text: str) -> str:
    """Return a pattern for a text, also where it is written as a literal, inside of other literals or not."""
    found = "".join(map(_character, text))
    return found if len(text) >= _SHORT else rf"(?<!\w){found}(?!\w)"


def _character(one: str) -> str:
    if one == "\\":
        return r"\\+"
    if one in "'\"":
        return rf"\\*{one}"
    if one in _ESCAPES:
        return rf"(?:{re.escape(one)}|\\+{_ESCAPES[one]})"
    if not one.isascii():
        return rf"(?:{re.escape(one)}|\\+(?i:{_numbered(one)}))"
    return re.escape(one)


def _numbered(one: str) -> str:
    number = ord(one)
    pair = json.dumps(one)[1:-1].replace("\\", r"\\+").removeprefix(r"\\+")  # beyond 16 bits JSON writes two
    return rf"x{number:02x}|u{number:04x}|U{number:08x}|{pair}"


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (bytes, bytearray)):
        yield value.decode("utf-8", "backslashreplace")
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield str(value)


def _forms(text: str) -> Iterator[str]:
    """Yield a text as it may be written: as it is, in a URL, and line by line."""
    if not text.strip():
        return
    yield from (text, quote(text), quote(text, safe=""))
    lines = [line.strip() for line in text.splitlines()]
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= _SHORT)
