"""Both type checkers agree on the public API, wrong wiring included: see ``tests/typing/api.py``."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
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


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "checker", [["mypy"], ["pyright", "--pythonpath", sys.executable]], ids=lambda checker: checker[0]
)
def test_the_public_api_is_typed(checker: list[str]) -> None:
    name, *options = checker
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    ran = subprocess.run(
        [sys.executable, "-m", name, *options, API], cwd=ROOT, capture_output=True, text=True, check=False
    )
    # what is wrong elsewhere is for `make types` to say
    found = [line for line in ran.stdout.splitlines() if "api.py:" in line and "note:" not in line]
    assert found == []
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    assert "found" in ran.stdout.lower() or "0 errors" in ran.stdout, ran.stdout + ran.stderr
