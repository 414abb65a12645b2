"""Change the source a little, many times over, and see whether its tests notice: ``make mutants``.

Each mutant is one change of one place of a module, in a copy of the source; the module's own tests run against it. A
mutant that they let pass survives, and is printed. ``--tries`` says how many are drawn for each module, and ``--seed``
which.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPY = ROOT / "build" / "mutants" / "flowloop"

TESTS = {
    "engine/_run/ledger.py": "tests/unit/test_ledger.py",
    "engine/_run/rules.py": "tests/unit/test_rules.py tests/engine/test_task_runner_steps.py",
    "engine/_run/mapping.py": "tests/unit/test_mapping.py tests/engine/test_mapped_flows.py",
    "engine/_run/restart.py": "tests/engine/test_cloud_resume.py tests/engine/test_cloud_resume_cases.py",
    "engine/_run/release.py": "tests/engine/test_release.py",
    "engine/_run/drive.py": "tests/engine/test_cancellation.py tests/engine/test_mapped_flows.py "
    "tests/engine/test_flow_runner_steps.py tests/engine/test_backlog.py",
    "engine/lifecycle.py": "tests/unit/test_lifecycle.py tests/backends/store/test_rules.py "
    "tests/backends/store/test_transitions.py",
    "engine/cloud/task_runner.py": "tests/engine/test_cloud_transitions.py tests/engine/test_cloud_resume.py "
    "tests/engine/test_cloud_cache.py tests/engine/test_cancel_near_the_start.py",
    "backends/batcher.py": "tests/backends/test_batcher.py",
    "backends/store/transitions.py": "tests/backends/store/test_transitions.py tests/backends/store/test_ownership.py",
    "backends/store/queue.py": "tests/backends/store/test_queue.py tests/backends/store/test_ownership.py",
}

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
}


class Mutator(ast.NodeTransformer):
    """Changes the place with one number, and counts the places."""

    def __init__(self, chosen: int = -1) -> None:
        self.chosen = chosen
        self.count = 0
        self.line = 0
        self.what = ""

    def _is_chosen(self, node: ast.AST, what: str) -> bool:
        self.count += 1
        if self.count - 1 != self.chosen:
            return False
        self.line, self.what = getattr(node, "lineno", 0), what
        return True

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        for place, operator in enumerate(node.ops):
            other = SWAPPED[type(operator)]
            if self._is_chosen(node, f"{type(operator).__name__} for {other.__name__}"):
                node.ops[place] = other()  # type: ignore[call-overload]
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        other = SWAPPED[type(node.op)]
        if self._is_chosen(node, f"{type(node.op).__name__} for {other.__name__}"):
            node.op = other()  # type: ignore[assignment]
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        other = SWAPPED.get(type(node.op))
        if other is not None and self._is_chosen(node, f"{type(node.op).__name__} for {other.__name__}"):
            node.op = other()  # type: ignore[assignment]
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return node.operand if isinstance(node.op, ast.Not) and self._is_chosen(node, "without not") else node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool) and self._is_chosen(node, f"{node.value} turned"):
            return ast.copy_location(ast.Constant(not node.value), node)
        if type(node.value) is int and self._is_chosen(node, f"{node.value} and one more"):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if self._is_chosen(node, "if never"):
            node.test = ast.Constant(False)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        self.generic_visit(node)
        is_call = isinstance(node.value, (ast.Call, ast.Await))
        return ast.copy_location(ast.Pass(), node) if is_call and self._is_chosen(node, "call left out") else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        is_attribute = isinstance(node.targets[0], (ast.Attribute, ast.Subscript))
        return ast.copy_location(ast.Pass(), node) if is_attribute and self._is_chosen(node, "not set") else node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        return node if node.value is None else self.generic_visit(node)

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        return node


def mutants(source: str, tries: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yield what was changed, and the changed source."""
    counter = Mutator()
    counter.visit(ast.parse(source))
    for chosen in sorted(rng.sample(range(counter.count), min(tries, counter.count))):
        mutator = Mutator(chosen)
        tree = ast.fix_missing_locations(mutator.visit(ast.parse(source)))
        yield f"line {mutator.line}: {mutator.what}", ast.unparse(tree)


def passes(tests: str) -> bool:
    """Run tests against the copy."""
    environment = {**os.environ, "PYTHONPATH": str(COPY.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-k", "not postgresql"]
    command += ["--timeout", "60", *tests.split()]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main() -> int:
    """Try the mutants of the modules named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    parser.add_argument("--tries", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--least", type=float, default=0.95, help="the share of mutants that has to be noticed")
    options = parser.parse_args()
    shutil.rmtree(COPY, ignore_errors=True)
    for half in ("engine", "backends"):
        shutil.copytree(ROOT / half, COPY / half, ignore=shutil.ignore_patterns("__pycache__"))
    bad = 0
    for module in options.modules:
        tests = " ".join(path for path in TESTS[module].split() if (ROOT / path).exists())
        if not passes(tests):
            print(f"{module}: its tests fail without any change", flush=True)
            bad += 1
            continue
        path, source = COPY / module, (ROOT / module).read_text(encoding="utf-8")
        survivors, tried = [], 0
        for what, changed in mutants(source, options.tries, random.Random(f"{module} {options.seed}")):
            path.write_text(changed, encoding="utf-8")
            tried += 1
            if passes(tests):
                survivors.append(what)
                print(f"  {module} survives: {what}", flush=True)
        path.write_text(source, encoding="utf-8")
        share = 1 - len(survivors) / max(1, tried)
        bad += share < options.least
        print(f"{module}: {share:.0%} of {tried} mutants noticed", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
