"""Writes the reference from the code: ``python docs/reference_pages.py``, and each time the site is built.

What is written, below docs/reference/, is not kept in git: a page for each module with what it exports, the commands,
the operations of the API, and the pictures that show the code's own tables.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(__file__).with_name("reference")
INSIDE = ("flowloop.backends.cli", "flowloop.backends.server.", "flowloop.backends.store.", "flowloop.backends.client.")
OUTSIDE = {f"flowloop.backends.server.{name}" for name in ("app", "metrics", "run", "settings")}
"""Of these halves only some modules are for users; the others are for who works on flowloop, and read as source."""
HALVES = {"package": "flowloop", "engine": "flowloop.engine", "backends": "flowloop.backends"}


# -- the modules -----------------------------------------------------------------------------------------


def modules() -> Iterator[str]:
    """Yield the import names of the modules that export something to users."""
    for folder, package in HALVES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *(part for part in inside if part != "__init__")])
            is_private = any(part.startswith("_") for part in inside if part != "__init__")
            if not is_private and (name in OUTSIDE or not name.startswith(INSIDE)):
                yield name


def exported(module: ModuleType) -> list[str]:
    """Return the names that a module exports."""
    return list(getattr(module, "__all__", ()))


def module_page(name: str) -> str:
    """Return the page of a module: its docstring, and each name that it exports."""
    module = importlib.import_module(name)
    parts = [f"# {name}", as_markdown(module.__doc__)]
    for exported_name in exported(module):
        parts += entry(name, exported_name, getattr(module, exported_name))
    return "\n\n".join(part for part in parts if part) + "\n"


def entry(module: str, name: str, found: Any) -> Iterator[str]:
    """Yield what a page says of one name."""
    yield f"## {name}"
    home = getattr(found, "__module__", module)
    if home != module and home.startswith("flowloop") and hasattr(sys.modules.get(home), name):
        yield f"See [`{home}`]({home}.md)." if home in set(modules()) else f"The same as `{home}.{name}`."
        return
    if inspect.isclass(found) or inspect.isroutine(found):
        yield f"```text\n{signature(name, found)}\n```"
        yield as_markdown(inspect.getdoc(found) if "__doc__" in vars(found) or inspect.isroutine(found) else "")
    else:
        yield described(module, name) or f"A constant: `{textwrap.shorten(repr(found), 100)}`"
    if inspect.isclass(found):
        yield from members(name, found)


def members(owner: str, cls: type) -> Iterator[str]:
    """Yield what a page says of the methods and properties that a class defines itself."""
    for name, member in vars(cls).items():
        inner = getattr(member, "__func__", member)
        if name.startswith("_"):
            continue
        if inspect.isfunction(inner):
            yield f"### {owner}.{name}"
            yield f"```text\n{signature(name, inner)}\n```"
            yield as_markdown(inspect.getdoc(inner))
        elif isinstance(inner, property):
            yield f"### {owner}.{name}"
            yield as_markdown(inspect.getdoc(inner))


def signature(name: str, found: Any) -> str:
    """Return a signature as one reads it, broken where it is long."""
    try:
        text = f"{name}{inspect.signature(found)}"
    except (TypeError, ValueError):
        return name
    text = text.replace("'", "") if "'" in text and '"' not in text else text
    if inspect.iscoroutinefunction(found):
        text = f"async {text}"
    return "\n".join(textwrap.wrap(text, 100, subsequent_indent="    ", break_long_words=False))


def described(module: str, name: str) -> str:
    """Return the docstring under a constant, read from the source."""
    source = importlib.import_module(module).__file__
    assert source is not None
    for statement, after in itertools.pairwise(ast.parse(Path(source).read_text(encoding="utf-8")).body):
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            return as_markdown(inspect.cleandoc(text)) if isinstance(text, str) else ""
    return ""


_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Example|Examples):$")


def as_markdown(docstring: str | None) -> str:
    """Return a docstring of this project as Markdown: its sections have their bodies indented."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    found: list[str] = []
    while lines:
        line = lines.pop(0)
        if _SECTION.match(line):
            body: list[str] = []
            while lines and (not lines[0] or lines[0].startswith(" ")):
                body.append(lines.pop(0))
            found += [
                "",
                f"**{line.removesuffix(':')}**",
                "",
                *textwrap.dedent("\n".join(body)).strip("\n").splitlines(),
                "",
            ]
        elif line == "::":
            body = []
            while lines and (not lines[0] or lines[0].startswith(" ")):
                body.append(lines.pop(0))
            found += ["```text", *textwrap.dedent("\n".join(body)).strip("\n").splitlines(), "```", ""]
        else:
            found.append(line)
    return "\n".join(found).strip()


# -- the commands, and the operations of the API ---------------------------------------------------------


def commands_page() -> str:
    """Return the page of the commands, as their own help has them."""
    import click

    from flowloop.backends.cli.commands import flowloop

    parts = ["# Commands", "Each command with its help, as `flowloop COMMAND --help` prints it."]

    def visit(command: click.Command, path: str, parent: click.Context | None) -> None:
        # With the settings of the command: click keeps the help option that it is first asked for, for good.
        settings = {**command.context_settings, "terminal_width": 100}
        context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent, **settings)
        parts.append(f"## {path}\n\n```text\n{command.get_help(context)}\n```")
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                visit(found, f"{path} {name}", context)

    visit(flowloop, "flowloop", None)
    return "\n\n".join(parts) + "\n"


def operations_page() -> str:
    """Return the page of the operations that the server knows besides the tables, from its schema."""
    from graphql import parse, print_ast

    document = parse((ROOT / "backends" / "server" / "schema.graphql").read_text(encoding="utf-8"))
    types: dict[str, Any] = {
        definition.name.value: definition for definition in document.definitions if getattr(definition, "name", None)
    }  # type: ignore[attr-defined]
    parts = [
        "# Operations of the API",
        "What the server does when asked, from its schema. Each table of the store is a query of its own besides, with "
        "`where`, `order_by`, `limit` and `offset`: `flow`, `flow_run`, `task_run`, `log` and the others; the page to "
        "write queries in, at `/graphql`, completes them.",
    ]
    for title, root in [("Mutations", "Mutation"), ("Queries", "Query"), ("Subscriptions", "Subscription")]:
        parts.append(f"## {title}")
        for field in types[root].fields:
            parts += [
                f"### {field.name.value}",
                f"```text\n{without_descriptions(print_ast(field))}\n```",
                description(field),
            ]
            for argument in field.arguments or ():
                taken = types.get(print_ast(argument.type).strip("[]!"))
                if hasattr(taken, "fields"):
                    parts.append(
                        "\n".join(
                            f"- `{one.name.value}: {print_ast(one.type)}`"
                            + (f": {description(one)}" if one.description else "")
                            for one in taken.fields or ()
                        )
                    )
    return "\n\n".join(part for part in parts if part) + "\n"


def description(node: Any) -> str:
    """Return what a schema says of a field."""
    return "" if node.description is None else str(node.description.value)


def without_descriptions(printed: str) -> str:
    """Return a field as it is printed, without its description."""
    return re.sub(r'^""".*?"""\s*', "", printed, flags=re.DOTALL)


# -- pictures of the code's own tables -------------------------------------------------------------------


def draw_states(folder: Path) -> None:
    """Draw the states, each below the one that it is a kind of."""
    from flowloop.engine import Flow, Task
    from flowloop.engine.state import State

    with Flow("states") as flow:
        drawn = {State: Task(name="State").bind()}

        def draw(parent: type[State]) -> None:
            for kind in parent.__subclasses__():
                if kind.__module__ == "flowloop.engine.state":
                    base = kind
                    if not kind.__name__.startswith("_"):
                        drawn[kind] = Task(name=kind.__name__).bind(upstream_tasks=[drawn[parent]])
                    else:
                        drawn[base] = drawn[parent]
                    draw(kind)

        draw(State)
    flow.visualize(filename=str(folder / "states"))


def draw_steps(folder: Path) -> None:
    """Draw the steps of a task run, in the order of their table."""
    from flowloop.engine import Flow, Task
    from flowloop.engine._run import steps

    with Flow("steps") as flow:
        named = [step.name for step in (*steps.BEFORE, *steps.BODY, *steps.AFTER)]
        before: list[Any] = []
        for name in named:
            before = [Task(name=name).bind(upstream_tasks=before)]
    flow.visualize(filename=str(folder / "steps"))


# -- all of it -------------------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """Return the pages by their names."""
    made = {name: module_page(name) for name in modules() if exported(importlib.import_module(name))}
    index = [
        "# Reference",
        "Made from the docstrings of what each module exports.",
        "```{toctree}\n:maxdepth: 1\n\ncommands\noperations",
    ]
    index.append("\n".join(made) + "\n```")
    return {
        "index": index[0] + "\n\n" + index[1] + "\n\n" + index[2] + "\n" + index[3] + "\n",
        "commands": commands_page(),
        "operations": operations_page(),
        **made,
    }


def write() -> None:
    """Write the pages and the pictures; a page that has not changed is not touched."""
    FOLDER.mkdir(exist_ok=True)
    made = pages()
    for stale in FOLDER.glob("*.md"):
        if stale.stem not in made and stale.name.removesuffix(".md") not in made:
            stale.unlink()
    for name, text in made.items():
        path = FOLDER / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    draw_states(FOLDER)
    draw_steps(FOLDER)


if __name__ == "__main__":
    write()
