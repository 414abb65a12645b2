"""The documentation: its code runs, or imports what exists, its links lead somewhere, its settings are all there."""

from __future__ import annotations

import ast
import asyncio
import importlib
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from flowloop.engine import Flow, Parameter, task

from .commands import ROOT, flowloop

PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "README.md"])
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_code_compiles_and_imports_what_exists(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("flowloop"):
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"


async def test_the_examples_about_testing_hold() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "testing.md").read_text(), re.MULTILINE | re.DOTALL)
    known: dict[str, Any] = {}
    for block in blocks:
        exec(block, known)
    await asyncio.to_thread(known["test_it_waits_for_two_days"])
    with Flow("greeting") as flow:
        task(lambda: "hello", name="greet")()
    assert await known["recorded_states"](flow) == ["Pending", "Running", "Success"]


def test_what_the_migration_table_says_of_scripts_holds() -> None:
    with Flow("doubled") as flow:
        doubled = Parameter("x") * 2
    state = flow.run_sync(x=21)
    assert state.result[doubled].result == 42


def test_the_names_of_the_migration_table_exist() -> None:
    page = (ROOT / "docs" / "migration.md").read_text()
    modules = set(re.findall(r"`(flowloop\.engine(?:\.\w+)*)`", page))
    assert len(modules) >= 4
    for module in modules:
        importlib.import_module(module)
    for module, names in re.findall(r"`(flowloop\.engine\.\w+)`: (`[^|]+`)", page):
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            if anchor:
                titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_exist(page: Path, tmp_path: Path) -> None:
    for command in set(re.findall(r"^\$ flowloop ((?:db )?[\w-]+)", page.read_text(), re.MULTILINE)):
        if not command.startswith("-"):
            assert flowloop(*command.split(), "--help", cwd=tmp_path).returncode == 0, command


def test_the_settings_page_is_that_of_the_code() -> None:
    made: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "settings_page.py"))
    assert made["PAGE"].read_text() == made["page"](), "run: python docs/settings_page.py"


def test_variables_that_pages_name_are_settings() -> None:
    known = set(re.findall(r"`(FLOWLOOP_\w+)`", (ROOT / "docs" / "settings.md").read_text()))
    for page in PAGES:
        named = set(re.findall(r"\bFLOWLOOP_[A-Z_]*[A-Z]\b", page.read_text()))
        assert named <= known, page.name
