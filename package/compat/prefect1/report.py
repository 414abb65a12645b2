"""What a file that was written for Prefect 1 uses, and how it is written for flowloop alone: ``flowloop migrate``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ...engine.errors import FlowloopError
from .names import MODULES, way_out

__all__ = ["Finding", "report"]

_OWN = ".compat.prefect1"
_INSTEAD = {
    "Flow": "from flowloop import Flow",
    "FlowRunner": "from flowloop import FlowRunner",
    "TaskRunner": "from flowloop import TaskRunner",
    "CloudFlowRunner": "from flowloop import CloudFlowRunner",
    "CloudTaskRunner": "from flowloop import CloudTaskRunner",
    "Result": "from flowloop.engine.result import Result",
    "Executor": "from flowloop.engine.executors import Executor",
    "DaskExecutor": "from flowloop.engine.executors import DaskExecutor",
    "LocalExecutor": "from flowloop.engine.executors import LocalExecutor",
    "LocalDaskExecutor": "flow.executor = LocalExecutor(threads=…) or ProcessExecutor(…), of flowloop.engine.executors",
    "ifelse": "with case(condition, True): … and with case(condition, False): …",
    "FilterTask": "a task of your own with trigger=all_finished",
    "PrefectSecret": "from flowloop import Secret",
    "Secret": "from flowloop import Secret, as a task; in a body os.environ",
    "Client": "async with flowloop.connect(url) as backend",
    "config": "flowloop.Settings, or arguments",
    "slack_notifier": "from flowloop.tasks import slack_notifier",
    "callback_factory": "a state handler of your own",
    "SlackTask": "from flowloop.tasks import post_to_slack",
    "EmailTask": "from flowloop.tasks import send_mail",
    "get_logger": "context.logger in a task, logging.getLogger elsewhere",
    "raise_on_exception": "context(raise_on_exception=True)",
    "create_link_artifact": "context.artifact.link(…)",
    "create_link": "context.artifact.link(…)",
    "create_markdown_artifact": "context.artifact.markdown(…)",
    "create_markdown": "context.artifact.markdown(…)",
}
_STEP_OWNERS = {"TaskRunner", "FlowRunner", "CloudTaskRunner", "CloudFlowRunner", "Runner"}
_RESULT_METHODS = {"read", "write", "exists"}


class Finding(NamedTuple):
    """One thing that a file uses.

    Args:
        - line: where
        - found: what is written there
        - instead: what to write
        - exists: whether flowloop has it
    """

    line: int
    found: str
    instead: str
    exists: bool = True


def report(path: Path) -> list[Finding]:
    """Return what a file uses of Prefect 1, line by line.

    Raises:
        - FlowloopError: if libcst is not there, or the file is no Python
    """
    try:
        import libcst
        from libcst.metadata import MetadataWrapper
    except ModuleNotFoundError:
        raise FlowloopError("reading a file to migrate needs an extra: pip install 'flowloop[migrate]'") from None
    try:
        wrapper = MetadataWrapper(libcst.parse_module(path.read_bytes()))
    except libcst.ParserSyntaxError as error:
        raise FlowloopError(f"{path} is not Python: {error.message}") from None
    reader = _reader()
    wrapper.visit(reader)
    return sorted(set(reader.findings))


def instead_of(module: str, name: str) -> tuple[str, bool]:
    """Return what to write in place of a name of a module, and whether flowloop has it."""
    place = MODULES.get(module, {}).get(name)
    if place is None:
        if f"{module}.{name}" in MODULES:
            return f"its names, from where they are now: {_home(f'{module}.{name}')}", True
        return way_out(f"{module}.{name}") or "nothing is in its place", False
    home, _, attribute = place.partition(":")
    if name in _INSTEAD and home.startswith(_OWN):
        return _INSTEAD[name], True
    if home.startswith(_OWN):
        return way_out(f"{module}.{name}") or f"from flowloop{home} import {attribute}", True
    import flowloop

    package = "flowloop" if home == ".engine" and attribute in flowloop.__all__ else f"flowloop{home}"
    return f"from {package} import {attribute}", True


def _home(module: str) -> str:
    homes = {place.partition(":")[0] for place in MODULES[module].values()}
    named = sorted(f"flowloop{home}" for home in homes if not home.startswith(_OWN))
    return ", ".join(named) or "flowloop"


def _reader() -> Any:
    import libcst as cst
    from libcst.helpers import get_full_name_for_node
    from libcst.metadata import PositionProvider

    class Reader(cst.CSTVisitor):
        METADATA_DEPENDENCIES = (PositionProvider,)

        def __init__(self) -> None:
            super().__init__()
            self.findings: list[Finding] = []
            self._flows: set[str] = set()

        def _note(self, node: cst.CSTNode, found: str, instead: str, exists: bool = True) -> None:
            place: Any = self.get_metadata(PositionProvider, node)
            self.findings.append(Finding(place.start.line, found, instead, exists))

        def visit_Import(self, node: cst.Import) -> bool:
            for alias in node.names:
                name = get_full_name_for_node(alias.name) or ""
                if name.partition(".")[0] == "prefect":
                    self._note(node, f"import {name}", f"import flowloop; {_known(name)}", name in MODULES)
            return False

        def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
            module = get_full_name_for_node(node.module) if node.module is not None else None
            if module is None or module.partition(".")[0] != "prefect" or isinstance(node.names, cst.ImportStar):
                return False
            for alias in node.names:
                name = str(get_full_name_for_node(alias.name))
                instead, exists = instead_of(module, name)
                self._note(node, f"from {module} import {name}", instead, exists)
            return False

        def visit_Attribute(self, node: cst.Attribute) -> bool:
            name = get_full_name_for_node(node) or ""
            if name.partition(".")[0] != "prefect":
                return True
            module, attribute = _split(name)
            if attribute:
                instead, exists = instead_of(module, attribute)
                self._note(node, f"{module}.{attribute}", instead, exists)
            return False

        def visit_With(self, node: cst.With) -> None:
            for item in node.items:
                if isinstance(item.item, cst.Call) and _called(item.item) == "Flow" and item.asname is not None:
                    self._flows.add(str(get_full_name_for_node(item.asname.name)))

        def visit_Assign(self, node: cst.Assign) -> None:
            if isinstance(node.value, cst.Call) and _called(node.value) == "Flow":
                self._flows |= {str(get_full_name_for_node(target.target)) for target in node.targets}

        def visit_Call(self, node: cst.Call) -> None:
            function = node.func
            if not isinstance(function, cst.Attribute):
                return
            owner = get_full_name_for_node(function.value) or ""
            method = function.attr.value
            if isinstance(function.value, cst.Call) and _called(function.value) in _STEP_OWNERS and method == "run":
                self._note(node, f"{_called(function.value)}(…).run(…)", "await it, in a coroutine")
            elif owner in self._flows and method == "run":
                self._note(node, f"{owner}.run(…)", f"{owner}.run_sync(…) in a script, await {owner}.run(…) elsewhere")
            elif owner in self._flows and method == "register":
                self._note(
                    node, f"{owner}.register(…)", "await register_flow(flow, backend); a worker does it by itself"
                )
            elif owner in self._flows and method == "run_agent":
                self._note(node, f"{owner}.run_agent()", "flowloop worker FILE", exists=False)

        def visit_ClassDef(self, node: cst.ClassDef) -> None:
            bases = {str(get_full_name_for_node(base.value)).rpartition(".")[2] for base in node.bases}
            is_result = any(base.endswith("Result") for base in bases)
            if not (bases & _STEP_OWNERS or is_result):
                return
            for method in node.body.body:
                if not isinstance(method, cst.FunctionDef) or method.asynchronous is not None:
                    continue
                name = method.name.value
                is_step = not is_result and name.startswith(
                    ("check_", "get_", "set_", "initialize", "call_", "run", "cache")
                )
                if is_step or (is_result and name in _RESULT_METHODS):
                    self._note(method, f"def {name} of {node.name.value}", f"async def {name}; await what it calls")

    def _called(call: cst.Call) -> str:
        return str(get_full_name_for_node(call.func)).rpartition(".")[2]

    def _split(name: str) -> tuple[str, str]:
        """Return the module that a dotted name begins with, and the name that follows."""
        parts = name.split(".")
        for length in range(len(parts), 0, -1):
            module = ".".join(parts[:length])
            if module in MODULES:
                return module, parts[length] if length < len(parts) else ""
        return name, ""

    def _known(name: str) -> str:
        return f"the names of {name} are in {_home(name)}" if name in MODULES else str(way_out(name))

    return Reader()


def lines(path: Path) -> Iterator[str]:
    """Yield the report of a file as text, and a line that counts."""
    findings = report(path)
    for finding in findings:
        sign = "" if finding.exists else "NOT IN FLOWLOOP  "
        yield f"{path}:{finding.line}: {sign}{finding.found}  ->  {finding.instead}"
    missing = sum(not finding.exists for finding in findings)
    if not findings:
        yield f"{path}: uses nothing of Prefect 1"
    elif missing:
        yield f"{path}: {len(findings)} to change, {missing} of them not in flowloop"
    else:
        yield f"{path}: {len(findings)} to change; as it is it runs with: python -m flowloop.compat.prefect1 {path}"
