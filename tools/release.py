"""Builds and checks a release, and writes what it is made of: ``make dist``.

In ``dist/`` are then a wheel, a source distribution, and a bill of materials (CycloneDX), which lists what the package
needs and what it brings along. The wheel is checked in an empty environment: it is installed there as the
README says, with and without the command line, and the first flow of the README runs.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import uuid
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
VENDORED = ROOT / "backends" / "server" / "ui" / "static" / "vendor" / "vendor.toml"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def version() -> str:
    """Return the version, as the source says it."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "package" / "__init__.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command, and return what it prints."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


# -- what it is made of ----------------------------------------------------------------------------------


def vendored() -> list[dict[str, Any]]:
    """Return the components that the package brings along, in the words of CycloneDX."""
    pages = [
        component(package["name"], package["version"], package["licence"], "npm", package["files"])
        for package in tomllib.loads(VENDORED.read_text(encoding="utf-8"))["package"]
    ]
    return pages + [component(*row) for row in third_party() if row[3] == "graphiql"]


def component(name: str, version: str, licence: str, group: str, files: Any = ()) -> dict[str, Any]:
    """Return one component."""
    purl = f"pkg:npm/{name.replace('@', '%40')}@{version}"
    found: dict[str, Any] = {"type": "library", "name": name, "version": version, "purl": purl, "scope": "required"}
    found["licenses"] = [{"license": {"id": licence}}]
    found["properties"] = [{"name": "flowloop:file", "value": file} for file in files]
    return found


def third_party() -> list[tuple[str, str, str, str, list[str]]]:
    """Return the rows of THIRD_PARTY.md: name, version, licence, which part, files."""
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| ([\w.]+) \| ([\w.-]+) \| (\w+) \| (.+) \|$", text, re.MULTILINE)
    return [
        (name, number, licence, part, re.findall(r"`([^`]+)`", files)) for name, number, licence, part, files in rows
    ]


def needed() -> list[dict[str, Any]]:
    """Return what the package needs, as the environment has it that this runs in."""
    wanted = list(PROJECT["dependencies"])
    for name in ("store", "postgres", "server", "schedules", "cli"):
        wanted += [one for one in PROJECT["optional-dependencies"][name] if not one.startswith("flowloop[")]
    found = []
    for requirement in wanted:
        name = re.split(r"[\[<>=;~! ]", requirement, maxsplit=1)[0]
        try:
            meta = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(
            {
                "type": "library",
                "name": meta["Name"],
                "version": meta["Version"],
                "purl": f"pkg:pypi/{meta['Name'].lower()}@{meta['Version']}",
                "scope": "required" if requirement in PROJECT["dependencies"] else "optional",
            }
        )
    return found


def bill_of_materials(files: list[Path]) -> dict[str, Any]:
    """Return the bill of materials of what was built."""
    made = {
        "type": "library",
        "name": "flowloop",
        "version": version(),
        "purl": f"pkg:pypi/flowloop@{version()}",
        "licenses": [{"license": {"id": PROJECT["license"]}}],
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(file.read_bytes()).hexdigest()} for file in files],
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {"timestamp": datetime.datetime.now(datetime.UTC).isoformat(), "component": made},
        "components": [*needed(), *vendored()],
    }


# -- building and checking -------------------------------------------------------------------------------


def build() -> list[Path]:
    """Build the source distribution, and the wheel out of it, so that nothing comes along by accident."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST)
    files = sorted(DIST.iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    return files


def check(wheel: Path) -> None:
    """Install a wheel as the README says, and do what it says."""
    with zipfile.ZipFile(wheel) as held:
        names = held.namelist()
    assert "flowloop/__init__.py" in names
    assert not any(name.endswith((".pyc", ".db")) for name in names)
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "venv", folder)
        python = Path(folder) / "bin" / "python"
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--find-links", DIST]
        run(*pip, f"flowloop=={version()}")
        code = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[0]
        assert "[9, 16]" in run(python, "-I", "-c", code, cwd=Path(folder))
        run(*pip, f"flowloop[cli]=={version()}")
        assert version() in run(Path(folder) / "bin" / "flowloop", "--version")


def main() -> None:
    """Make a release."""
    files = build()
    (wheel,) = (file for file in files if file.suffix == ".whl")
    check(wheel)
    bill = DIST / f"flowloop-{version()}.cdx.json"
    bill.write_text(json.dumps(bill_of_materials(files), indent=2) + "\n", encoding="utf-8")
    for file in sorted(DIST.iterdir()):
        print(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(ROOT)}")
    print("to install it: pip install --find-links dist 'flowloop[cli]'")


if __name__ == "__main__":
    main()
