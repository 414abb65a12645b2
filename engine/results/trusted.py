"""From where recorded results are read: reading a pickle runs code, and whoever may write states names locations.

A location that came with a recorded state counts only inside a folder or a bucket that code of this process has named,
or the settings. Links are followed first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import FlowloopError
from ..settings import Settings

__all__ = ["ResultNotTrusted", "check_file", "check_object", "is_below", "trust"]

_NAMED: set[str] = set()


class ResultNotTrusted(FlowloopError):
    """A recorded state names a result in a place that neither the flow nor the settings name."""


def trust(place: str) -> None:
    """Note that code has named a place of results: an absolute folder or file, or the URL of a bucket."""
    _NAMED.add(place)


def is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder or in it, wherever links lead."""
    found, root = (os.path.normcase(os.path.realpath(one)) for one in (path, folder))
    return found == root or found.startswith(os.path.join(root, ""))


def check_file(path: str, own: Iterable[str]) -> None:
    """Check a recorded path of a file.

    Args:
        - path: the path, absolute
        - own: folders and files that count beside those that are named

    Raises:
        - ResultNotTrusted: if it is in none of them
    """
    settings = Settings.from_env()
    for folder in {*own, *_NAMED, settings.results_dir, *_listed(settings)}:
        if "://" not in folder and is_below(path, os.path.abspath(Path(folder).expanduser())):
            return
    raise _refused(path, "folder")


def check_object(bucket: str, key: str) -> None:
    """Check a recorded place of an object.

    Args:
        - bucket: the URL of its bucket
        - key: its key

    Raises:
        - ResultNotTrusted: if it is in none that is named
    """
    url = f"{bucket}/{key}"
    settings = Settings.from_env()
    for place in {*_NAMED, settings.results, *_listed(settings)}:
        if "://" in place and url.startswith(place.rstrip("/") + "/") and ".." not in key.split("/"):
            return
    raise _refused(url, "bucket")


def _listed(settings: Settings) -> list[str]:
    return [place.strip() for place in settings.trusted_results.split(",") if place.strip()]


def _refused(location: str, kind: str) -> ResultNotTrusted:
    return ResultNotTrusted(
        f"a recorded state names {location} as its result, which is in no {kind} that the flow or the settings name: "
        f"it is not read. If you trust that {kind}, list it in FLOWLOOP_TRUSTED_RESULTS"
    )
