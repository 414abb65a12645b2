"""The tasks of Prefect's library that need nothing but the standard library: SQLite, files, templates."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...engine.context import context
from ...engine.task import Task, defaults_from_attrs

__all__ = ["Copy", "Glob", "Move", "Remove", "SQLiteQuery", "SQLiteScript", "StringFormatter"]


def _given(name: str, value: Any) -> Any:
    if not value:
        raise ValueError(f"no {name} was given, neither to the task nor to its call")
    return value


class _WithDefaults(Task[..., Any]):
    """A task whose arguments may be given when it is made, when it is called, or both."""

    _names: tuple[str, ...] = ()

    def __init__(self, *given: Any, **kwargs: Any) -> None:
        for name, value in zip(self._names, given, strict=False):
            kwargs.setdefault(name, value)
        for name in self._names:
            setattr(self, name, kwargs.pop(name, None))
        super().__init__(**kwargs)


class SQLiteQuery(_WithDefaults):
    """Returns the rows of a query of a SQLite database."""

    _names = ("db", "query", "data")

    @defaults_from_attrs("db", "query", "data")
    def run(self, db: str | None = None, query: str | None = None, data: Sequence[Any] | None = None) -> list[Any]:
        """Return the rows; like the task of Prefect it does not commit what a query changes."""
        with contextlib.closing(sqlite3.connect(_given("db", db))) as connection:
            return connection.execute(_given("query", query), data or ()).fetchall()


class SQLiteScript(_WithDefaults):
    """Runs a script of statements in a SQLite database."""

    _names = ("db", "script")

    @defaults_from_attrs("db", "script")
    def run(self, db: str | None = None, script: str | None = None) -> None:
        """Run the script."""
        with contextlib.closing(sqlite3.connect(_given("db", db))) as connection:
            connection.executescript(_given("script", script))


def _there(name: str, path: Any) -> Path:
    found = Path(_given(name, path))
    if not found.exists():
        raise ValueError(f"there is no {found}")
    return found


class Copy(_WithDefaults):
    """Copies a file or a folder."""

    _names = ("source_path", "target_path")

    @defaults_from_attrs("source_path", "target_path")
    def run(self, source_path: Any = None, target_path: Any = None) -> Path:
        """Copy, and return the new path."""
        source = _there("source_path", source_path)
        target = _given("target_path", target_path)
        return Path(shutil.copy(source, target) if source.is_file() else shutil.copytree(source, target))


class Move(_WithDefaults):
    """Moves a file or a folder."""

    _names = ("source_path", "target_path")

    @defaults_from_attrs("source_path", "target_path")
    def run(self, source_path: Any = None, target_path: Any = None) -> Path:
        """Move, and return the new path."""
        return Path(shutil.move(_there("source_path", source_path), _given("target_path", target_path)))


class Remove(_WithDefaults):
    """Removes a file or an empty folder."""

    _names = ("path",)

    @defaults_from_attrs("path")
    def run(self, path: Any = None) -> None:
        """Remove it."""
        found = _there("path", path)
        if found.is_dir():
            found.rmdir()
        else:
            found.unlink()


class Glob(_WithDefaults):
    """Returns the paths in a folder that fit a pattern."""

    _names = ("path", "pattern")

    @defaults_from_attrs("path", "pattern")
    def run(self, path: Any = None, pattern: str | None = None) -> list[Path]:
        """Return them."""
        return list(Path(_given("path", path)).glob(pattern or "*"))


class StringFormatter(_WithDefaults):
    """Fills a template in, with the run context and its own arguments."""

    _names = ("template",)

    def run(self, template: str | None = None, **values: Any) -> str:
        """Return the text."""
        with context(**values):
            text: str = template if template is not None else getattr(self, "template", None) or ""
            return text.format(**context.to_dict())
