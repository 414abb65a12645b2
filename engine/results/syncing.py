"""Result files that survive a loss of power: many are synced in one pass, before the states that name them are sent."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from ..errors import FlowloopError
from ..result import Result
from ._threads import in_thread
from .local import LocalResult

__all__ = ["ResultNotSynced", "sync_results"]

_ONE_BY_ONE = 16
"""So many files are synced by themselves; of more, all that their file system has yet to write."""


class ResultNotSynced(FlowloopError):
    """A file that was written cannot be brought to the disk."""


async def sync_results(results: Iterable[Result | None]) -> None:
    """Have the files of results on the disk, with the folders that they are in.

    Args:
        - results: any results: those that are no files, or are on the disk already, need nothing

    Raises:
        - ResultNotSynced: if the disk cannot take them
    """
    files = [one for one in results if isinstance(one, LocalResult) and one.is_unsynced]
    if not files:
        return
    try:
        if (known := next((one.sync_error for one in files if one.sync_error), None)) is not None:
            raise known
        folders = {folder for one in files for folder in one.folders()}
        await in_thread(_sync, [str(one.location) for one in files], folders)
    except OSError as error:
        for one in files:
            one.sync_error = error
        raise ResultNotSynced(f"the results in {files[0].dir} cannot be brought to the disk: {error}") from error
    for one in files:
        one.is_unsynced = False


def _sync(paths: Sequence[str], folders: Iterable[str]) -> None:
    whole = _syncfs() if len(paths) > _ONE_BY_ONE else None
    if whole is None:
        for path in (*paths, *folders):
            _opened(path, os.fsync)
        return
    for folder in {os.stat(path).st_dev: path for path in folders if os.path.exists(path)}.values():
        _opened(folder, whole)


def _opened(path: str, sync: Callable[[int], None]) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):  # removed since, or a folder that this process only passes through
        return
    try:
        sync(handle)
    finally:
        os.close(handle)


@cache
def _syncfs() -> Callable[[int], None] | None:
    """Return what writes all that a file system has in memory, or None where there is no such call."""
    if sys.platform != "linux":
        return None
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)

    def syncfs(handle: int) -> None:
        if library.syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return syncfs if hasattr(library, "syncfs") else None
