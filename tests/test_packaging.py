"""The package: what is in it, what it needs, and what importing it brings along."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import flowloop
from flowloop import engine

from .commands import ROOT

FOLDERS = ("package", "engine", "backends")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def tracked(folder: str) -> set[str]:
    """Return the files of the project in a folder, those that git would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return {name for name in listed if (ROOT / name).exists()}


SOURCES = sorted(set().union(*map(tracked, FOLDERS)))


def imported_as(path: str) -> str:
    """Return the path of a file or a folder below the import name: `package` is the package itself."""
    return f"flowloop/{path}".replace("flowloop/package", "flowloop")


def test_every_package_is_listed_under_its_folder() -> None:
    found = {str(Path(source).parent) for source in SOURCES if source.endswith(".py")}
    expected = {imported_as(folder).replace("/", "."): folder for folder in found}
    assert SETUPTOOLS["package-dir"] == expected
    assert set(SETUPTOOLS["packages"]) == expected.keys()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel from a copy of the project, so that nothing of an older build comes along."""
    copy = tmp_path_factory.mktemp("project")
    for name in [*SOURCES, "pyproject.toml", "README.md", "LICENSE"]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('dist'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(copy / "dist" / done.stdout.split()[-1])


def test_the_wheel_holds_every_file_of_both_halves_and_no_other(wheel: zipfile.ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == set(map(imported_as, SOURCES))
    assert "flowloop/py.typed" in held
    assert "flowloop/engine/py.typed" in held
    assert "flowloop/backends/py.typed" in held


def test_the_wheel_says_what_it_needs(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("METADATA")]
    needed = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", wheel.read(name).decode(), re.MULTILINE)
    assert set(needed) == {"anyio", "cloudpickle", "gql", "httpx", "msgspec", "sniffio", "typing_extensions", "uvloop"}


def test_every_requirement_has_a_range_and_no_address() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in [*PROJECT["project"]["dependencies"], *(each for extra in extras.values() for each in extra)]:
        assert requirement.startswith("flowloop[") or ">=" in requirement, requirement
        assert "@" not in requirement
        assert "://" not in requirement


def test_each_extra_of_the_readme_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE))
    assert named == PROJECT["project"]["optional-dependencies"].keys() - {"bench", "demo", "dev", "docs"}


def test_every_extra_that_an_error_names_exists() -> None:
    for source in SOURCES:
        if source.endswith(".py"):
            for extra in re.findall(r"pip install 'flowloop\[(\w+)\]'", (ROOT / source).read_text()):
                assert extra in PROJECT["project"]["optional-dependencies"], f"{source} names the extra {extra}"


# -- what an import brings along -------------------------------------------------------------------------


def imported(statement: str) -> set[str]:
    """Return the top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}; import json, sys; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "tests")
    return set(json.loads(done.stdout))


HEAVY = {
    "aiosqlite",
    "alembic",
    "asyncpg",
    "click",
    "cloudpickle",
    "croniter",
    "cryptography",
    "gql",
    "graphql",
    "httpx",
    "numpy",
    "obstore",
    "pandas",
    "pyarrow",
    "rich",
    "sqlalchemy",
    "sqlite3",
    "starlette",
    "uvicorn",
    "websockets",
}


@pytest.mark.parametrize("module", ["flowloop.engine", "flowloop.engine.cloud", "flowloop.backends"])
def test_importing_the_engine_brings_no_server_no_database_and_no_screen(module: str) -> None:
    brought = imported(f"import {module}") - imported("pass")
    assert "msgspec" in brought
    assert brought & HEAVY == set()


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import flowloop; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['flowloop']"


def test_the_package_has_the_names_of_the_engine() -> None:
    assert set(engine.__all__) <= set(flowloop.__all__) == set(dir(flowloop)) - {"__version__"}
    for name in flowloop.__all__:
        assert getattr(flowloop, name) is not None
    assert flowloop.Flow is engine.Flow
    with pytest.raises(AttributeError, match="'flowloop' has no attribute 'Flaw'"):
        _ = flowloop.Flaw


def test_there_is_one_version(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("METADATA")]
    assert f"Version: {flowloop.__version__}\n" in wheel.read(name).decode()
    assert f"## {flowloop.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_importing_the_engine_does_not_import_the_backends() -> None:
    code = "import flowloop.engine, sys; print([name for name in sys.modules if name.startswith('flowloop.backends')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_brings_no_server_and_no_database() -> None:
    brought = imported("import flowloop.backends.client")
    assert brought & {"sqlalchemy", "starlette", "uvicorn", "sqlite3"} == set()
