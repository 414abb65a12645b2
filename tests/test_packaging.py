"""The package: what is in it, what it needs, and what importing it brings along."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
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
    for name in [*SOURCES, "pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY.md"]:
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
    assert named == PROJECT["project"]["optional-dependencies"].keys() - {"bench", "demo", "dev", "docs", "release"}


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


def test_what_is_new_is_told_under_a_subject() -> None:
    subjects = {kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"]}
    named = [
        re.fullmatch(r"\+[\w-]+\.(\w+)\.md", path.name)
        for path in (ROOT / "changes").iterdir()
        if path.name != "README.md"
    ]
    assert {found[1] if found else None for found in named} <= subjects
    assert PROJECT["tool"]["towncrier"]["start_string"] in (ROOT / "CHANGELOG.md").read_text()


def test_importing_the_engine_does_not_import_the_backends() -> None:
    code = "import flowloop.engine, sys; print([name for name in sys.modules if name.startswith('flowloop.backends')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_brings_no_server_and_no_database() -> None:
    brought = imported("import flowloop.backends.client")
    assert brought & {"sqlalchemy", "starlette", "uvicorn", "sqlite3"} == set()


# -- a release -------------------------------------------------------------------------------------------

RELEASE = runpy.run_path(str(ROOT / "tools" / "release.py"))


def test_what_is_brought_along_is_listed_with_its_licence() -> None:
    rows = {(name, version, licence) for name, version, licence, _, _ in RELEASE["third_party"]()}
    page = tomllib.loads((ROOT / "backends/server/ui/static/vendor/vendor.toml").read_text())["package"]
    assert {(one["name"], one["version"], one["licence"]) for one in page} <= rows
    listed = {file for *_, files in RELEASE["third_party"]() for file in files}
    graphiql = {path.name for path in (ROOT / "backends/server/graphiql").glob("*.gz")}
    assert listed == graphiql | {file for one in page for file in one["files"]}
    bill = RELEASE["bill_of_materials"]([])
    assert {"preact", "graphiql", "anyio", "SQLAlchemy"} <= {one["name"] for one in bill["components"]}
    assert all(one["version"] for one in bill["components"])


def test_a_source_distribution_has_what_a_packager_needs(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    for name in tracked("."):
        if not name.startswith(("benchmarks/results", "docs/pictures")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    build = "from setuptools.build_meta import build_sdist; print(build_sdist('dist'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=True)
    with tarfile.open(copy / "dist" / done.stdout.split()[-1]) as files:
        held = {name.partition("/")[2] for name in files.getnames()}
    wanted = {name for name in tracked(".") if name.startswith(("docs/", "examples/", "tests/", "tools/", *FOLDERS))}
    assert {name for name in wanted - held if not name.startswith("docs/pictures")} == set()
    assert {"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "THIRD_PARTY.md", "Makefile", "Containerfile"} <= held


def test_the_container_file_is_sound() -> None:
    """As far as can be told where nothing builds it."""
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line.split()[0] for line in lines if line.split()[0] in ("USER", "ENTRYPOINT", "CMD")] == [
        "USER",
        "ENTRYPOINT",
        "CMD",
    ]
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    for line in lines:
        words = line.split()
        assert words[0] in {
            "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "STOPSIGNAL", "USER", "VOLUME",
            "WORKDIR",
        }  # fmt: skip
        if words[0] == "FROM":
            assert ":" in words[1], "a tag says which"
            assert not words[1].endswith(":latest")
        if words[0] == "COPY" and not words[1].startswith("--from"):
            for source in words[1:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in ignored
        if words[0] in ("ENTRYPOINT", "CMD"):
            assert line.split(maxsplit=1)[1].startswith("["), "a signal has to reach flowloop itself"


def test_the_release_workflow_calls_what_exists() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    made = re.findall(r"run: make (\w+)", text)
    assert made == ["dist"]
    assert re.search(r"^dist: ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert (ROOT / ".ci/run").exists()
    assert "run: .ci/run" in text
    assert "attest" in text


REPOSITORY = PROJECT["project"]["urls"]["Repository"]


def test_links_of_the_readme_are_absolute_and_lead_to_files() -> None:
    readme = (ROOT / "README.md").read_text()
    links = dict(re.findall(r"^\[([\w-]+)\]: (https://\S+)$", readme, re.MULTILINE))
    assert re.findall(r"\]\([^)]+\)", readme) == []
    assert set(re.findall(r"\]\[([\w-]+)\]", readme)) == links.keys()
    inside = [link for link in links.values() if link.startswith(f"{REPOSITORY}/")]
    assert len(inside) >= 8
    for link in inside:
        kind, branch, path = link.removeprefix(f"{REPOSITORY}/").partition("#")[0].split("/", 2)
        assert kind in ("blob", "raw")
        assert branch == "main"
        assert (ROOT / path).exists(), link


def test_every_extra_for_users_is_tried() -> None:
    spec = importlib.util.spec_from_file_location("extras", ROOT / "tools" / "extras.py")
    assert spec is not None
    assert spec.loader is not None
    tried = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tried)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert tried.USES.keys() - {""} == known.keys() - tried.OF_DEVELOPERS
