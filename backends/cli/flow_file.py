"""Finding the flow in a Python file."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from ...engine.errors import FlowloopError
from ...engine.flow import Flow

__all__ = ["load_flow"]


def load_flow(target: str) -> Flow:
    """Run a Python file and return the flow it defines.

    Args:
        - target: ``FILE``, or ``FILE:FLOW`` with the name of the flow or of the variable that holds it

    Raises:
        - FlowloopError: if there is no such file, if it fails, or if it does not define exactly one such flow
    """
    name, _, wanted = (target, "", "") if Path(target).exists() else target.rpartition(":")
    path = Path(name or wanted)
    if not path.is_file():
        raise FlowloopError(f"there is no file {str(path)!r}")
    module = _run(path)
    found = {id(value): (variable, value) for variable, value in vars(module).items() if isinstance(value, Flow)}
    flows = list(found.values())
    if name and wanted:
        flows = [(variable, flow) for variable, flow in flows if wanted in (variable, flow.name)]
    if len(flows) == 1:
        return flows[0][1]
    names = ", ".join(sorted(variable for variable, _ in found.values()))
    if not found:
        raise FlowloopError(f"{path} defines no flow: a flow is a variable of the file, as in `with Flow(…) as flow:`")
    if not flows:
        raise FlowloopError(f"{path} defines no flow {wanted!r}; it defines: {names}")
    raise FlowloopError(f"{path} defines {len(flows)} flows: say {path}:FLOW with one of {names}")


def _run(path: Path) -> ModuleType:
    """Run the file as a module of its own name, with its folder on the path, as `python FILE` has it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FlowloopError(f"{path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # stored results name their classes by module
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        kind = "" if isinstance(error, FlowloopError) else f"{type(error).__name__}: "
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        raise FlowloopError(f"{path}{_line(path, error)}: {kind}{text}") from error
    return module


def _line(path: Path, error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.resolve()]
    return f":{lines[-1]}" if lines else ""
