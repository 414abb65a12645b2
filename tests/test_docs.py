"""The documentation: its code runs, or imports what exists, its links lead somewhere, its settings are all there."""

from __future__ import annotations

import ast
import asyncio
import importlib
import pkgutil
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flowloop import backends, compat, engine
from flowloop.backends.cli import commands
from flowloop.engine import Flow, Parameter, task
from flowloop.engine.errors import FlowloopError

from .commands import ROOT, environment
from .commands import flowloop as run_command
from .snippets import run_page

DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *(page for page in DOCS.rglob("*.md") if page.parent.name != "reference"),
        *(ROOT / name for name in ("CONTRIBUTING.md", "README.md")),
    ]
)
RUN = sorted([*DOCS.glob("howto/*.md"), *DOCS.glob("explain/*.md")])
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```py(?:thon)?\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.parametrize("block", BLOCKS)
def test_code_compiles_and_imports_what_exists(block: str) -> None:
    compiled = compile(block, "a page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
    for node in ast.walk(compiled):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("flowloop"):
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_what_a_page_shows_is_what_happens(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWLOOP_HOME", str(tmp_path))
    for snippet, printed in run_page(page):
        if snippet.printed is not None:
            assert printed == snippet.printed, f"{page.name}:{snippet.line}"


def test_the_tutorial_can_be_followed_to_the_letter(tmp_path: Path) -> None:
    """Its files are saved and its commands are typed, but for those that install flowloop or serve for ever."""
    text = (DOCS / "tutorial.md").read_text()
    screens: dict[str, subprocess.CompletedProcess[str]] = {}
    for kind, block in re.findall(r"^```(python \S+|console)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if kind != "console":
            (tmp_path / kind.split()[1]).write_text(block)
            continue
        shown = ""
        for command in re.findall(r"^\$ (.+)$", block, re.MULTILINE):
            done = typed(command, tmp_path, screens)
            if done is not None:
                screens[command] = done
                shown = done.stdout
        told = [line for line in block.splitlines() if not line.startswith("$ ")]
        assert told == [] or shown.splitlines() == told
    failed = screens['flowloop run patient.py -p \'cities=["Aarhus", "Atlantis"]\'']
    assert {command for command, done in screens.items() if done.returncode} == {failed.args}
    assert failed.returncode == 1
    assert "mean (after read[1]: KeyError: 'Atlantis')" in failed.stdout + failed.stderr
    assert "KeyError: 'Atlantis'" in screens["flowloop show NAME"].stdout
    assert screens["flowloop run patient.py"].stdout.count("Retrying") == 3


def typed(
    command: str, folder: Path, screens: dict[str, subprocess.CompletedProcess[str]]
) -> subprocess.CompletedProcess[str] | None:
    words = shlex.split(command)
    if words[:2] in (["flowloop", "server"], ["python", "-m"], ["pip", "install"]):
        return None
    if words[0] == "python":
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=folder,
            env=environment(folder),
            capture_output=True,
            text=True,
            check=False,
        )
    elif words[-1] == "NAME":
        name = screens["flowloop runs --state failed"].stdout.strip().splitlines()[-1].split()[0]
        done = run_command(*words[1:-1], name, cwd=folder)
    else:
        done = run_command(*words[1:], cwd=folder)
    done.args = command
    return done


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = set(re.findall(r"^([\w/-]+)$", (DOCS / "index.md").read_text(), re.MULTILINE))
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md") if page.is_relative_to(DOCS)}
    assert {page for page in pages if not page.startswith("reference/")} - {"index"} <= listed
    assert "reference/index" in listed


BY_MESSAGE, _, BY_ERROR = (DOCS / "troubleshooting.md").read_text().partition("## By the error")
MESSAGES = re.findall(r"^\| `([^`]+)` \|", BY_MESSAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def said() -> str:
    """Every text in the source that is no docstring, with … for what is filled in."""
    found = []
    for source in [*(ROOT / "engine").rglob("*.py"), *(ROOT / "backends").rglob("*.py")]:
        tree = ast.parse(source.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found.append(node.value)
    return "\n".join(found)


@pytest.mark.parametrize("message", MESSAGES)
def test_the_messages_of_troubleshooting_are_those_of_the_code(message: str, said: str) -> None:
    for piece in message.split("…"):
        assert piece.strip(" :;,.'") in said, piece


def test_troubleshooting_knows_thirty_messages() -> None:
    assert len(set(MESSAGES)) >= 30


def public_errors(module: str) -> Iterator[str]:
    """The errors among the names that a module says it has."""
    found = importlib.import_module(module)
    for name in getattr(found, "__all__", ()):
        one = getattr(found, name)
        if isinstance(one, type) and issubclass(one, FlowloopError):
            yield name


def test_every_error_is_on_the_page_of_troubleshooting() -> None:
    packages = (engine, backends, compat)
    found = [module.name for one in packages for module in pkgutil.walk_packages(one.__path__, f"{one.__name__}.")]
    public = {
        name
        for module in found
        if not module.endswith("__main__") and ".migrations" not in module
        if not module.startswith("flowloop.backends.server")  # answers to a request, not errors of a program
        for name in public_errors(module)
    }
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", BY_ERROR, re.MULTILINE)
    assert public == set(re.findall(r"`(\w+)`", " ".join(rows)))


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    """The pages that are made from the code."""
    made: dict[str, Any] = runpy.run_path(str(DOCS / "reference_pages.py"))
    return made["pages"]()  # type: ignore[no-any-return]


def test_the_page_of_the_commands_leaves_them_as_they_are(reference: dict[str, str]) -> None:
    assert reference["commands"].count("  -h, --help ") == reference["commands"].count("```text")
    assert CliRunner().invoke(commands.flowloop, ["-h"]).exit_code == 0


def test_every_name_command_and_operation_has_its_place(reference: dict[str, str]) -> None:
    for module in [
        "flowloop",
        "flowloop.engine",
        "flowloop.engine.errors",
        "flowloop.engine.state",
        "flowloop.backends",
    ]:
        for name in importlib.import_module(module).__all__:
            assert f"## {name}\n" in reference[module]
    errors = importlib.import_module("flowloop.engine.errors")
    for name in errors.__all__:
        assert name in reference["flowloop.engine.errors"]
    schema = (ROOT / "backends" / "server" / "schema.graphql").read_text()
    mutations = re.search(r"^type Mutation \{(.*?)^\}", schema, re.MULTILINE | re.DOTALL)
    assert mutations is not None
    for name in re.findall(r"^  (\w+)\(", mutations[1], re.MULTILINE):
        assert f"### {name}\n" in reference["operations"]
    for name in commands.flowloop.commands:
        assert f"## flowloop {name}\n" in reference["commands"]


def test_every_metric_is_on_the_page_of_operations() -> None:
    pages = "".join((DOCS / name).read_text() for name in ("operations.md", "telemetry.md"))
    sources = (ROOT / "backends" / "server" / "metrics.py", ROOT / "backends" / "prometheus.py")
    named = {name for source in sources for name in re.findall(r'"(flowloop_\w+)"', source.read_text())}
    assert len(named) >= 10
    assert [name for name in sorted(named) if f"`{name}" not in pages] == []


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """As one long page: a sidebar for each of hundreds takes longer than all the rest, and has nothing to warn of."""
    pytest.importorskip("sphinx")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "singlehtml", str(DOCS), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "run_sync" in (tmp_path / "index.html").read_text()


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
            if target.parent.name == "reference":  # made with the site, which warns of what is missing
                continue
            assert target.exists(), link
            if anchor:
                titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    for command in set(re.findall(r"^\$ flowloop ((?:db )?[\w-]+)", page.read_text(), re.MULTILINE)):
        if not command.startswith("-"):
            assert CliRunner().invoke(commands.flowloop, [*command.split(), "--help"]).exit_code == 0, command


def test_the_settings_page_is_that_of_the_code() -> None:
    made: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "settings_page.py"))
    assert made["PAGE"].read_text() == made["page"](), "run: python docs/settings_page.py"


def test_the_table_of_migration_is_that_of_the_code() -> None:
    made: dict[str, Any] = runpy.run_path(str(DOCS / "migration_page.py"))
    assert made["PAGE"].read_text() == made["page"](), "run: python docs/migration_page.py"


def test_variables_that_pages_name_are_settings() -> None:
    known = set(re.findall(r"`(FLOWLOOP_\w+)`", (ROOT / "docs" / "settings.md").read_text()))
    for page in PAGES:
        named = set(re.findall(r"\bFLOWLOOP_(?!SECRET__)[A-Z_]*[A-Z]\b", page.read_text()))
        assert named <= known, page.name
