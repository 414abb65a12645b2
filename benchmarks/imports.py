"""What it costs to have flowloop: import time, memory of a process that does nothing, packages, disk space."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import time
from importlib import metadata

from .harness import Row, Sample, compare, one_row

TITLE = "Import, installation, idle memory"
BASELINE = "bare Python"

_ROUNDS = {"guard": 5, "quick": 5, "full": 25}

_PROGRAMS = {
    BASELINE: "",
    "import asyncio": "import asyncio",
    "flowloop.engine": "import flowloop.engine",
    "flowloop.engine and run": "from flowloop.engine import Flow, FlowRunner, task",
    "engine.cloud, backends": "import flowloop.engine.cloud, flowloop.backends",
    "HTTP client": "import flowloop.backends.client",
    "embedded store": "import flowloop.backends.embedded",
    "server": "import flowloop.backends.server.app",
}
_SHOW = "; print(open('/proc/self/statm').read().split()[1])"


def run(scale: str) -> list[Row]:
    """Measure the start of processes that import a part and end."""
    contenders = {name: functools.partial(_imported, program) for name, program in _PROGRAMS.items()}
    rows = compare("import", contenders, unit="ms", rounds=_ROUNDS[scale], baseline=BASELINE)
    bare = rows[0]
    for row in rows[1:]:
        own = [value - base for value, base in zip(row.values, bare.values, strict=True)]
        memory = row.details["RSS MB"] - bare.details["RSS MB"]
        rows.append(one_row("more than bare Python", row.subject, "ms", own, details={"RSS MB": memory}))
    return [*rows, *_installed()]


def _imported(program: str) -> Sample:
    """Return the ms from the start of a process to its end."""
    command = [sys.executable, "-I", "-c", f"{program or 'pass'}{_SHOW}"]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Sample((time.perf_counter() - start) * 1e3, {"RSS MB": int(done.stdout) * os.sysconf("SC_PAGE_SIZE") / 1e6})


# -- what an installation brings ---------------------------------------------------------------------------


def _installed() -> list[Row]:
    rows = []
    for subject, extras in {"base": (), "[store]": ("store",), "[server]": ("server",), "[all]": ("all",)}.items():
        try:
            packages = _closure("flowloop", extras)
        except metadata.PackageNotFoundError as error:
            print(f"flowloop{subject}: not all of it is installed here: {error.name}", flush=True)
            continue
        size = sum(map(_size, packages)) / 1e6
        details = {"MB": size}
        rows.append(one_row("installation", subject, "packages", [len(packages)], details=details))
    return rows


def _closure(package: str, extras: tuple[str, ...], seen: dict[str, frozenset[str]] | None = None) -> list[str]:
    """Return a package and all that it needs here, itself included."""
    seen = {} if seen is None else seen
    key = re.sub(r"[-_.]+", "-", package).lower()
    wanted = seen.get(key, frozenset()) | set(extras)
    if key in seen and seen[key] == wanted:
        return list(seen)
    seen[key] = frozenset(wanted)
    for text in metadata.requires(package) or ():
        requirement = _Requirement(text)
        if requirement.applies(wanted):
            _closure(requirement.name, requirement.extras, seen)
    return list(seen)


class _Requirement:
    """A requirement as a package's metadata states it."""

    def __init__(self, text: str) -> None:
        from packaging.requirements import Requirement

        parsed = Requirement(text)
        self.name = parsed.name
        self.extras = tuple(sorted(parsed.extras))
        self._marker = parsed.marker

    def applies(self, extras: frozenset[str] | set[str]) -> bool:
        """Whether the requirement holds here, with these extras of the package that states it."""
        return self._marker is None or any(self._marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _size(package: str) -> int:
    files = metadata.distribution(package).files or []
    return sum(file.size or 0 for file in files)
