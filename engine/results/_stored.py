"""What results have in common that lie somewhere as bytes: the record of a state says how many, and their checksum."""

from __future__ import annotations

import hashlib
from io import BufferedIOBase
from typing import Any, BinaryIO, Self

from ..errors import SerializationError
from ..result import Result, ResultDamaged
from ..serializers import PickleSerializer

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

    def _dump(self, value: Any, file: BinaryIO) -> None:
        """Write a value into a file, and note what was written."""
        noted = _Noted(file)
        if type(self.serializer) is PickleSerializer:
            try:
                self.serializer.dump(value, noted)
            except SerializationError:
                if noted.error is not None:  # it is the disk's, and not the value's
                    raise noted.error from None
                raise
        else:
            noted.write(self.serializer.serialize(value))
        self.size, self.checksum = noted.size, f"{_KIND}{noted.digest.hexdigest()}"

    def _load_from(self, file: BufferedIOBase, where: str) -> Any:
        """Return the value in a file, once it is known that it is what the record says.

        Raises:
            - ResultDamaged: if it is not
        """
        if type(self.serializer) is not PickleSerializer:
            data = file.read()
            self._check(data, where)
            return self.serializer.deserialize(data)
        if self._is_checked:
            digest = hashlib.file_digest(file, "sha256")
            self._compare(file.tell(), f"{_KIND}{digest.hexdigest()}", where)
            file.seek(0)
        return self.serializer.load(file)

    def _check(self, data: bytes, where: str) -> None:
        """Check what was read.

        Raises:
            - ResultDamaged: if it is not what the record says
        """
        if self._is_checked:
            self._compare(len(data), _checksum(data) if len(data) == self.size else "", where)

    @property
    def _is_checked(self) -> bool:
        return self.checksum is not None and self.checksum.startswith(_KIND)

    def _compare(self, size: int, checksum: str, where: str) -> None:
        if size != self.size:
            what = f"{size} bytes instead of {self.size}"
        elif checksum != self.checksum:
            what = "other bytes, of the same number"
        else:
            return
        raise ResultDamaged(
            f"{where} does not hold the result that was recorded, but {what}: it was damaged, or written anew since. "
            "Restart the task to make it again"
        )


class _Noted:
    """Writes to a file, and notes how much, and its checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        self.digest.update(data)
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.size += written
        return written


_KIND = "sha256:"


def _checksum(data: bytes) -> str:
    return f"{_KIND}{hashlib.sha256(data).hexdigest()}"
