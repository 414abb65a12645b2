"""Text as every database and every JSON document can hold it."""

from __future__ import annotations

__all__ = ["storable"]


def storable(text: str) -> str:
    """Return a text without what some backends refuse.

    NUL, which PostgreSQL does not take, becomes the replacement character. Half of a pair of surrogates, as in the name
    of a file that is not UTF-8, is written out as an escape.
    """
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
