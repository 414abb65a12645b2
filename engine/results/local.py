"""Results in files."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from ..errors import SerializationError
from ..result import ResultNotFound
from ..serializers import Serializer
from ..settings import Settings
from ._stored import StoredResult
from ._threads import in_thread
from .trusted import check_file, is_below, trust

__all__ = ["LocalResult"]


class LocalResult(StoredResult, wire_type="LocalResult", wire_fields=("location", "dir")):
    """A value in a file of this machine.

    A file is written under another name and then renamed, so that whoever reads finds all of it or nothing. In a
    recorded run it is on the disk before the state that names it is sent, so that it survives a loss of power, too.

    Args:
        - dir: the folder; ``results`` in flowloop's home if None
        - validate_dir: whether to make `dir` an absolute path, and the folder if it is not there
        - value: the value
        - location: the path in the folder, or a template or a function of it, as for `Result`; an absolute path is
            taken as it is
        - serializer: how the value becomes bytes; cloudpickle by default
    """

    is_written_anywhere = True
    sync_error: OSError | None = None
    """Why the file cannot be brought to the disk: to ask again would be answered as if all were well."""
    _inside: str | None = None
    """The folder of the template that the location was made of; links, too, lead nowhere out of it."""

    def __init__(
        self,
        dir: str | os.PathLike[str] | None = None,
        validate_dir: bool = True,
        *,
        value: Any = None,
        location: str | Callable[..., str] | None = None,
        serializer: Serializer | None = None,
    ) -> None:
        super().__init__(value, location, serializer)
        self.dir = os.fspath(dir) if dir is not None else Settings.from_env().results_dir
        if validate_dir:
            folder = Path(self.dir).expanduser().absolute()
            folder.mkdir(parents=True, exist_ok=True)
            self.dir = str(folder)
        self._trust_own()

    def at(self, location: str | Callable[..., str] | None) -> Self:
        """Return a copy that is stored at `location`; see `Result.at`."""
        new = super().at(location)
        new._inside = None
        new._trust_own()
        return new

    def _trust_own(self) -> None:
        for place in self._own_places():
            trust(place)

    def _own_places(self) -> list[str]:
        """Return where the code that made this result has its values: not what a document says of it."""
        if self.is_recorded:
            return []
        fixed = [] if self.location is None or not os.path.isabs(self.location) else [_fixed(self.location)]
        return [os.path.abspath(self.dir), *fixed]

    async def check_recorded(self, location: str) -> None:
        """Check that a file is to be read that a recorded state names; see `Result.check_recorded`."""
        await in_thread(check_file, self._path(location), self._own_places())

    async def read(self, location: str) -> Self:
        """Return a result with the value of a file.

        Raises:
            - ResultNotFound: if there is no such file
            - SerializationError: if it does not hold what the serializer writes
        """
        new = self.copy()
        new.location = self._path(location)
        new.value = await in_thread(self._load, new.location)
        return new

    async def write(self, value: Any, /, **kwargs: Any) -> Self:
        """Write a file, and return a result with its absolute path.

        Raises:
            - SerializationError: if the serializer cannot take the value, or the location leads out of the folder
        """
        new = self.format(**kwargs)
        new.location = self._path(new.location or self.default_location)
        new.value = value
        await in_thread(new._store, new.location, value)
        new.is_unsynced = True
        return new

    def folders(self) -> list[str]:
        """Return the folder of the file, and those around it up to the one of all results."""
        folder, root = os.path.dirname(str(self.location)), os.path.abspath(self.dir)
        found = [folder]
        while folder.startswith(os.path.join(root, "")):
            folder = os.path.dirname(folder)
            found.append(folder)
        return found

    async def exists(self, location: str, /, **kwargs: Any) -> bool:
        """Tell whether there is a file at `location`, its template filled from `kwargs`."""
        if kwargs:
            location = super().at(location).format(**kwargs).location or ""
        return await in_thread(os.path.exists, self._path(location))

    async def remove(self, location: str) -> None:
        """Remove a file, and its folder with the last one."""
        await in_thread(self._remove, self._path(location))

    def _remove(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)
        folder = os.path.dirname(path)
        with suppress(OSError):  # there are others
            if os.path.normpath(folder) != os.path.normpath(self.dir):
                os.rmdir(folder)

    def _check_filled(self, template: str, location: str) -> None:
        # the values come from parameters: they choose no folder, so the fixed beginning of the template stands
        fixed = _fixed(template)
        if os.path.isabs(template):
            inside = os.path.commonpath([os.path.normpath(location), os.path.normpath(fixed)]) == os.path.normpath(
                fixed
            )
        else:
            inside = not os.path.isabs(location)
        if not inside:
            raise self._leads_out(location, fixed or self.dir)

    def format(self, /, **kwargs: Any) -> Self:
        """Return a copy whose location is filled in; see `Result.format`."""
        new = super().format(**kwargs)
        is_filled = self.location is not None and self.location != new.location
        new._inside = os.path.join(self.dir, _fixed(self.location)) if is_filled and self.location else None
        return new

    def _check_links(self, path: str) -> None:
        # a value may name a link that is there already
        if self._inside is not None and not is_below(path, self._inside):
            raise self._leads_out(path, self._inside)

    def _leads_out(self, location: str, folder: str) -> SerializationError:
        return SerializationError(f"the location {location!r} leads out of {folder}, where its template is")

    def _path(self, location: str) -> str:
        if os.path.isabs(location):
            return location
        path = os.path.normpath(os.path.join(self.dir, location))
        # a template is filled with what others send: it must not choose the folder
        if os.path.commonpath([path, os.path.normpath(self.dir)]) != os.path.normpath(self.dir):
            raise SerializationError(f"the location {location!r} leads out of the folder of results, {self.dir}")
        return os.path.abspath(path)

    def _load(self, path: str) -> Any:
        self._check_links(path)
        try:
            file = open(path, "rb")  # noqa: SIM115 - what is not found while it is read is something else
        except FileNotFoundError as error:
            raise ResultNotFound(f"no result is stored at {path}") from error
        with file:
            return self._load_from(file, path)

    def _store(self, path: str, value: Any) -> None:
        import tempfile

        self._check_links(path)
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=folder, prefix=".", suffix=".tmp")
        try:
            with open(handle, "wb") as file:
                self._dump(value, file)
            os.replace(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise


def _fixed(template: str) -> str:
    """Return the folder that a template begins with; of a location that is no template, that itself."""
    return os.path.dirname(template.partition("{")[0]) if "{" in template else template
