"""Writes the table of names at the end of docs/migration.md: ``python docs/migration_page.py``."""

from __future__ import annotations

from pathlib import Path

from flowloop.compat.prefect1.names import MODULES, WAYS_OUT
from flowloop.compat.prefect1.report import instead_of

PAGE = Path(__file__).with_name("migration.md")
TITLE = "## The table\n"

HEAD = """
Made from the code by `python docs/migration_page.py`. Under `install()` all of these resolve; the second column is what
to write without it.

| Prefect 1 | flowloop |
| --- | --- |
"""

REST = """
What does not resolve, and what to use instead:

| Prefect 1 | use |
| --- | --- |
"""


def page() -> str:
    """Return the whole page."""
    rows: dict[tuple[str, str], list[str]] = {}
    for module, names in MODULES.items():
        if any(module.startswith(f"{kind}.") for kind in ("prefect.run_configs", "prefect.storage")):
            continue  # their submodules have the same names
        for name in names:
            instead = instead_of(module, name)[0]
            home, is_import, _ = instead.partition(f" import {name}")
            rows.setdefault((module, f"`{home} import …`" if is_import else instead), []).append(name)
    text = PAGE.read_text(encoding="utf-8").partition(TITLE)[0] + TITLE + HEAD
    for (module, instead), names in rows.items():
        text += f"| `{module}`: {', '.join(f'`{name}`' for name in names)} | {instead} |\n"
    return text + REST + "".join(f"| `{name}` | {instead} |\n" for name, instead in WAYS_OUT.items())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
