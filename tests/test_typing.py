"""Both type checkers agree on the public API, wrong wiring included: see ``tests/typing/api.py``."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
API = "tests/typing/api.py"


@pytest.fixture(scope="module", autouse=True)
def link_tree() -> None:
    """Link the folders to the names they are imported by, as ``make types`` does."""
    folder = ROOT / "build" / "typing" / "flowloop"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("engine", "backends", "package/compat", "package/tasks", "package/__init__.py", "package/py.typed"):
        with contextlib.suppress(FileExistsError):
            (folder / Path(name).name).symlink_to(Path("..") / ".." / ".." / name)


ONLY_FLOWLOOP = """
# what flowloop imports in its turn is two thousand modules, most of them Ray's
[mypy]
follow_imports = skip
[mypy-flowloop.*]
follow_imports = silent
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_the_public_api_is_typed(checker: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    (tmp_path / "mypy.ini").write_text(ONLY_FLOWLOOP)
    options = {
        "mypy": ["--strict", "--python-version=3.11", "--config-file", tmp_path / "mypy.ini", "--cache-dir", tmp_path],
        "pyright": ["--pythonpath", sys.executable],
    }
    ran = subprocess.run(
        [sys.executable, "-m", checker, *options[checker], API],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": "build/typing"},
        capture_output=True,
        text=True,
        check=False,
    )
    # what is wrong elsewhere is for `make types` to say
    found = [line for line in ran.stdout.splitlines() if "api.py:" in line and "note:" not in line]
    assert found == []
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    assert "found" in ran.stdout.lower() or "0 errors" in ran.stdout, ran.stdout + ran.stderr


USER = """
from flowloop import Flow, task

@task
def double(n: int) -> int:
    return 2 * n

with Flow("typed") as flow:
    double("four")
    done: str = double(4)
"""


@pytest.fixture(scope="module")
def strict_install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment beside a strict editable install of this source; it has what this one has, but its flowloop."""
    folder = tmp_path_factory.mktemp("strict")
    source = folder / "source"
    for name in ("engine", "backends", "package"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY.md"):
        shutil.copy(ROOT / name, source)
    build = (
        "import sys; from setuptools import build_meta as b; b.build_editable(sys.argv[1], {'editable_mode': 'strict'})"
    )
    subprocess.run([sys.executable, "-c", build, folder], cwd=source, check=True, capture_output=True)
    venv.create(folder / "venv", symlinks=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    (folder / "user.py").write_text(USER)
    (folder / "mypy.ini").write_text(ONLY_FLOWLOOP)
    return folder


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", [["mypy", "--python-executable"], ["pyright", "--pythonpath"]], ids=lambda c: c[0])
def test_a_strict_editable_install_is_seen(checker: list[str], strict_install: Path) -> None:
    """As `docs/howto/typing.md` says."""
    name, option = checker
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    command = [sys.executable, "-m", name, option, strict_install / "venv" / "bin" / "python", "user.py"]
    ran = subprocess.run(command, cwd=strict_install, capture_output=True, text=True, check=False)
    errors = re.findall(r"user\.py:(\d+).*error", ran.stdout)
    assert errors == ["9", "10"], ran.stdout + ran.stderr
