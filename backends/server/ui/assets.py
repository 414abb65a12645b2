"""The files of the page: read once, without what is there for readers, named by a digest of them, and compressed."""

from __future__ import annotations

import gzip
import hashlib
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple, Self

__all__ = ["Asset", "Assets", "view_of"]

_IMPORTED = re.compile(r'\bfrom\s*"(\.[^"]+)"')
"""What a module cannot do without, as against what it imports when that is wanted."""

_COMMENT = re.compile(r"/\*.*?\*/|^[ \t]*//[^\n]*", re.DOTALL | re.MULTILINE)
_INDENT = re.compile(r"^[ \t]+", re.MULTILINE)

_TYPES = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}


class Asset(NamedTuple):
    """One file, as it is and compressed."""

    type: str
    body: bytes
    packed: bytes


class Assets:
    """The document and every file that it may ask for.

    Args:
        - document: the HTML document
        - files: the others, by their names
    """

    def __init__(self, document: str, files: Mapping[str, bytes]) -> None:
        whole = hashlib.sha256(document.encode())
        for name, body in sorted(files.items()):
            whole.update(name.encode() + b"\0" + body)
        self.digest = whole.hexdigest()[:12]
        self.files = {
            name: Asset(_TYPES[name.rpartition(".")[2]], body, gzip.compress(body, 9, mtime=0))
            for name, body in files.items()
        }
        self._document = document

    @classmethod
    @cache
    def load(cls) -> Self:
        """Read the files of this package."""
        folder = resources.files(__package__ or __name__).joinpath("static")
        files = dict(_files(folder, ""))
        return cls(
            files.pop("index.html").decode(), {name: _lean(name, files[name]) for name in filter(_is_served, files)}
        )

    def page(self, path: str) -> bytes:
        """Return the document for an address below that of the page.

        It carries a relative base, so it works below any path, and behind any proxy.
        """
        # all modules at once: found one by one, each would wait for the one that names it
        modules = self.modules(view_of(path))
        preloads = "\n".join(f'<link rel="modulepreload" href="-/{self.digest}/{name}">' for name in modules)
        return (
            self._document.replace("{{base}}", "../" * path.count("/") or "./")
            .replace("{{assets}}", f"-/{self.digest}")
            .replace("{{preloads}}", preloads)
            .encode()
        )

    def modules(self, view: str) -> Sequence[str]:
        """Return the modules that a view needs to be shown."""
        waiting, found = [f"view/{view}.js", "main.js"], set[str]()
        while waiting:
            name = waiting.pop()
            if name in self.files and name not in found:
                found.add(name)
                named = _IMPORTED.findall(self.files[name].body.decode())
                waiting += [posixpath.normpath(posixpath.join(posixpath.dirname(name), other)) for other in named]
        return sorted(found)


def view_of(path: str) -> str:
    """Return the view that is shown at an address, by the name of its module."""
    first, _, rest = path.partition("/")
    if first in ("", "runs"):
        return "run" if rest else "runs"
    return "search" if first in ("tail", "go") else first


def _lean(name: str, body: bytes) -> bytes:
    """Leave out comments and the blanks before a line. Lines stay where they are, for whoever looks for a fault."""
    if name.startswith("vendor/") or not name.endswith((".js", ".css")):
        return body
    text = _COMMENT.sub(lambda found: "\n" * found[0].count("\n"), body.decode())
    return _INDENT.sub("", text).encode()


def _is_served(name: str) -> bool:
    return name.rpartition(".")[2] in _TYPES


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.read_bytes()
