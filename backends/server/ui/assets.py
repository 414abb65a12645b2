"""The files of the page: read once, its modules as one, named by a digest of them, and compressed."""

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

from .bundle import bundled, lean_style

__all__ = ["Asset", "Assets"]

_MODULE = "page.js"
_IMPORTED = re.compile(r'\bfrom\s*"(\.[^"]+)"')
"""What a module cannot do without, as against what it imports when that is wanted."""

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
        sent = {name: body for name, body in files.items() if name.startswith("vendor/") and name.endswith(".js")}
        ours = {name: body.decode() for name, body in files.items() if name.endswith(".js") and name not in sent}
        sent[_MODULE] = bundled(ours, "main.js").encode()
        sent["page.css"] = lean_style(files["page.css"].decode()).encode()
        sent["icon.svg"] = files["icon.svg"]
        return cls(files["index.html"].decode(), sent)

    def page(self, path: str) -> bytes:
        """Return the document for an address below that of the page.

        It carries a relative base, so it works below any path, and behind any proxy.
        """
        # all modules at once: found one by one, each would wait for the one that names it
        preloads = "\n".join(f'<link rel="modulepreload" href="-/{self.digest}/{name}">' for name in self.modules())
        return (
            self._document.replace("{{base}}", "../" * path.count("/") or "./")
            .replace("{{assets}}", f"-/{self.digest}")
            .replace("{{preloads}}", preloads)
            .encode()
        )

    def modules(self) -> Sequence[str]:
        """Return the modules that the page needs before it shows anything."""
        waiting, found = [_MODULE], set[str]()
        while waiting:
            name = waiting.pop()
            if name in self.files and name not in found:
                found.add(name)
                named = _IMPORTED.findall(self.files[name].body.decode())
                waiting += [posixpath.normpath(posixpath.join(posixpath.dirname(name), other)) for other in named]
        return sorted(found)


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.read_bytes()
