"""Writes docs/settings.md from the classes that hold the settings: ``python docs/settings_page.py``."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import msgspec

from flowloop.backends.server.settings import ServerSettings
from flowloop.engine import Settings

PAGE = Path(__file__).with_name("settings.md")

HEAD = """# Settings

A setting comes from an argument, else from an environment variable, else it has its default. Durations are in seconds.
There is no global configuration: `Settings.from_env()` reads the environment when it is called, and whoever needs
settings receives them:

```python
runner = CloudFlowRunner(flow, settings=Settings(backend_url="http://localhost:4200", outage_limit=60))
```

This page is made from the code by `python docs/settings_page.py`.

## Of every process

`flowloop.engine.Settings`

"""

SERVER = """
## Of the server

`flowloop.backends.server.settings.ServerSettings`, as `flowloop server` reads them. Sizes are in bytes.

"""


def table(kind: type[msgspec.Struct], prefix: str, defaults: dict[str, Any] | None = None) -> str:
    """Return a table of the settings of a class."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    lines = ["| variable | default | what it is |", "| --- | --- | --- |"]
    for field, doc in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(doc, ast.Expr), f"{field.target.id} has no docstring"
            assert isinstance(doc.value, ast.Constant)
            name = field.target.id
            default = (defaults or {}).get(name, field.value and ast.unparse(field.value))
            text = str(doc.value.value).replace("``", "`").replace("|", "\\|")
            lines.append(f"| `{prefix}{name.upper()}` | `{default}` | {text} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the page."""
    own = table(Settings, "FLOWLOOP_", {"home": "~/.flowloop"})
    return HEAD + own + SERVER + table(ServerSettings, "FLOWLOOP_SERVER_")


if __name__ == "__main__":
    PAGE.write_text(page())
