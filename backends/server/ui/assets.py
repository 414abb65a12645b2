"""The files of the page: read once, named by a digest over them all, and compressed."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple, Self

__all__ = ["Asset", "Assets"]

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
        return cls(files.pop("index.html").decode(), {name: body for name, body in files.items() if _is_served(name)})

    def page(self, depth: int) -> bytes:
        """Return the document for an address so many levels below that of the page.

        It carries a relative base, so it works below any path, and behind any proxy.
        """
        # all modules at once: found one by one, each would wait for the one that names it
        modules = [name for name in self.files if name.endswith(".js") and not name.endswith("dagre.js")]
        preloads = "\n".join(f'<link rel="modulepreload" href="-/{self.digest}/{name}">' for name in sorted(modules))
        return (
            self._document.replace("{{base}}", "../" * depth or "./")
            .replace("{{assets}}", f"-/{self.digest}")
            .replace("{{preloads}}", preloads)
            .encode()
        )


def _is_served(name: str) -> bool:
    return name.rpartition(".")[2] in _TYPES


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.read_bytes()
