"""What results have in common that lie somewhere as bytes: the record of a state says how many, and their checksum."""

from __future__ import annotations

import hashlib
from typing import Self

from ..result import Result, ResultDamaged

__all__ = ["StoredResult"]


class StoredResult(Result):
    """A value that lies somewhere as bytes."""

    wire_facts = ("size", "checksum")
    size: int | None = None
    """How many bytes were written, where that is known."""
    checksum: str | None = None
    """The SHA-256 of the bytes, as ``sha256:…``."""

    def expecting(self, stored: Result) -> Self:
        """Return a copy that reads only what was written; see `Result.expecting`."""
        if not isinstance(stored, StoredResult) or stored.checksum is None:
            return self
        new = self.copy()
        new.size, new.checksum = stored.size, stored.checksum
        return new

    def _note(self, data: bytes) -> None:
        self.size, self.checksum = len(data), _checksum(data)

    def _check(self, data: bytes, where: str) -> None:
        """Check what was read.

        Raises:
            - ResultDamaged: if it is not what the record says
        """
        if self.checksum is None or not self.checksum.startswith(_KIND):
            return
        if len(data) != self.size:
            what = f"{len(data)} bytes instead of {self.size}"
        elif _checksum(data) != self.checksum:
            what = "other bytes, of the same number"
        else:
            return
        raise ResultDamaged(
            f"{where} does not hold the result that was recorded, but {what}: it was damaged, or written anew since. "
            "Restart the task to make it again"
        )


_KIND = "sha256:"


def _checksum(data: bytes) -> str:
    return f"{_KIND}{hashlib.sha256(data).hexdigest()}"
