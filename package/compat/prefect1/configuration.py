"""``prefect.config``: what old files read of it, made of the environment, and what they set.

Of what is set flowloop heeds ``flows.checkpointing`` and ``context.secrets``; the rest is kept for the file itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...engine.settings import Settings

__all__ = ["PREFECT_VERSION", "checkpointing", "config", "set_temporary_config"]

PREFECT_VERSION = "1.4.1"
"""The release whose interface is resolved."""

_PREFIX = "PREFECT__"

_changes: dict[tuple[str, ...], Any] = {}
"""What was set in this process, by its path."""


def _defaults() -> dict[str, Any]:
    settings = Settings.from_env()
    return {
        "home_dir": str(settings.home),
        "backend": "server",
        "debug": False,
        "flows": {"checkpointing": False, "defaults": {"storage": {}}},
        "tasks": {"defaults": {"max_retries": 0, "retry_delay": None, "timeout": None}},
        "engine": {},
        "logging": {"level": settings.log_level, "format": "%(message)s", "extra_loggers": []},
        "cloud": {"api": settings.backend_url, "graphql": settings.backend_url, "use_local_secrets": True},
        "server": {"endpoint": settings.backend_url},
        "context": {"secrets": {}},
    }


def _from_environment(found: dict[str, Any]) -> dict[str, Any]:
    for variable, text in os.environ.items():
        if variable.startswith(_PREFIX):
            *sections, name = variable.removeprefix(_PREFIX).split("__")
            place = found
            for section in sections:
                place = place.setdefault(section.lower(), {})
            # the names of secrets keep their case
            place[name if [one.lower() for one in sections] == ["context", "secrets"] else name.lower()] = _value(text)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text


def _changed(found: dict[str, Any]) -> dict[str, Any]:
    for (*sections, name), value in _changes.items():
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return found


class _Section(Mapping[str, Any]):
    """A section of the configuration, by attribute or by item."""

    def __init__(self, path: str = "prefect.config") -> None:
        object.__setattr__(self, "_path", path)

    def _content(self) -> Mapping[str, Any]:
        found: Any = _changed(_from_environment(_defaults()))
        for name in self._path.split(".")[2:]:
            found = found[name]
        return found  # type: ignore[no-any-return]

    def __getitem__(self, name: str) -> Any:
        found = self._content()[name]
        return _Section(f"{self._path}.{name}") if isinstance(found, Mapping) and self._path.count(".") < 3 else found

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"{self._path}.{name} is not known: flowloop has no global configuration; set the environment variable "
                f"{'__'.join([_PREFIX[:-2], *self._path.upper().split('.')[2:], name.upper()])}, or pass an argument"
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        _changes[(*self._path.split(".")[2:], name)] = value

    __setitem__ = __setattr__

    def __iter__(self) -> Any:
        return iter(self._content())

    def __len__(self) -> int:
        return len(self._content())


config: Any = _Section()


@contextmanager
def set_temporary_config(temp_config: Mapping[str, Any]) -> Iterator[Any]:
    """Set values, ``{"flows.checkpointing": True}``, for the block."""
    before = dict(_changes)
    _changes.update({tuple(path.split(".")): value for path, value in temp_config.items()})
    try:
        yield config
    finally:
        _changes.clear()
        _changes.update(before)


def checkpointing() -> bool:
    """Return whether a run without a backend stores results, as PREFECT__FLOWS__CHECKPOINTING says."""
    return bool(config.flows.checkpointing)
