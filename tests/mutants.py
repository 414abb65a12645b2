"""Change the source a little, many times over, and see whether its tests notice: ``make mutants``.

Each mutant is one change of one place of a module. The tests of the module are first run once, to learn how long each
takes and which lines it runs; against a mutant only the quick ones run that run the changed line, in a fork of this
process that has read everything but flowloop. A mutant that they let pass survives, and is printed. ``--tries`` says
how many are drawn for each module, and ``--seed`` which.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from itertools import accumulate
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType
from typing import Any

import coverage
import pytest

ROOT = Path(__file__).parents[1]
SCRATCH = ROOT / "build" / "mutants"
"""Where the tests run, for what a mutant may write anywhere."""

LOG = SCRATCH / f"log-{os.getpid()}"

_STEPS = "unit/test_rules.py engine/test_task_runner_steps.py engine/test_one_way.py engine/test_one_net.py "
_STEPS += "engine/test_the_thirty.py engine/test_never_left.py engine/test_state_handlers.py engine/test_retries.py"
_CLOUD = (
    "unit/test_plans.py engine/test_cloud_*.py engine/test_cancel_near_the_start.py engine/test_left_by_failures.py "
)
_CLOUD += "engine/test_never_left.py engine/test_directives.py backends/test_steps_ahead.py "
_CLOUD += "engine/test_results_elsewhere.py engine/test_one_way.py engine/test_handed_over.py engine/test_calls.py "
_CLOUD += "engine/test_parameters.py backends/test_pruned_results.py backends/test_ends.py"
_DRIVE = "engine/test_cancellation.py engine/test_mapped_flows.py engine/test_flow_runner_steps.py "
_DRIVE += "engine/test_backlog.py engine/test_release.py engine/test_one_net.py engine/test_retries.py "
_DRIVE += "engine/test_cancel_near_the_start.py engine/test_left_by_failures.py "
_DRIVE += "engine/test_context_and_logs.py engine/test_telemetry.py engine/test_visualize.py "
_DRIVE += "engine/test_handed_over.py engine/test_the_thirty.py engine/test_never_left.py engine/test_cloud_resume.py "
_DRIVE += "backends/test_steps_ahead.py engine/test_limits.py engine/test_watching.py "
_DRIVE += "engine/test_notebook.py engine/test_cloud_transitions.py engine/test_cloud_task_runner.py"
_STORE = "backends/store/test_transitions.py backends/store/test_ownership.py backends/store/test_rules.py "
_STORE += "backends/store/test_queue.py backends/store/test_limits.py backends/store/test_services.py"

TESTS = {
    "engine/_run/ahead.py": "unit/test_ahead.py backends/test_steps_ahead.py",
    "engine/_run/body.py": f"{_STEPS} engine/test_results.py engine/test_cancellation.py engine/test_streaming.py "
    "engine/test_context_and_logs.py engine/test_cloud_resume*.py engine/test_trusted_results.py engine/test_limits.py "
    "engine/test_handed_over.py engine/test_local_executor.py engine/test_cloud_transitions.py engine/test_one_way.py "
    "engine/test_cloud_task_runner.py engine/test_cloud_returned_is_recorded.py engine/test_never_left.py "
    "engine/test_cancel_near_the_start.py engine/test_resources.py engine/test_mapped_flows.py "
    "engine/test_left_at_a_place.py engine/test_explain.py",
    "engine/_run/caching.py": "unit/test_caching.py engine/test_cache_identity.py engine/test_cloud_cache.py "
    "engine/test_trusted_results.py",
    "engine/_run/drive.py": _DRIVE,
    "engine/_run/gates.py": "unit/test_where_bodies_run.py engine/test_places.py",
    "engine/_run/keeping.py": "unit/test_where_bodies_run.py",
    "engine/_run/ledger.py": "unit/test_ledger.py",
    "engine/_run/mapping.py": "unit/test_mapping.py engine/test_mapped_flows.py engine/test_one_net.py",
    "engine/_run/net.py": "engine/test_one_net.py engine/test_state_handlers.py unit/test_signals.py",
    "engine/_run/release.py": "engine/test_release.py",
    "engine/_run/restart.py": "unit/test_restart.py engine/test_cloud_resume*.py engine/test_resources.py "
    "engine/test_left_by_failures.py",
    "engine/_run/rules.py": f"{_STEPS} engine/test_flow_runner_steps.py engine/test_resources.py",
    "engine/_run/steps.py": f"unit/test_plans.py {_STEPS} backends/test_steps_ahead.py",
    "engine/lifecycle.py": "unit/test_lifecycle.py",
    "engine/cloud/task_runner.py": _CLOUD,
    "backends/batcher.py": "backends/test_batcher.py",
    "backends/store/transitions.py": _STORE,
    "backends/store/queue.py": "backends/store/test_queue.py backends/store/test_ownership.py",
}

_BOUND = "a bound for the work of one call, of which any number of this size will do"
_WAITED = "nobody takes it before it has waited for a moment more"

_RACE = "it is seen only where another process comes between, as PostgreSQL lets it"
_NEGATIVE = "any negative number says that it is no child"
_SPEED = "it costs time, and nothing else is seen of it"

EQUIVALENT: dict[str, dict[str, str]] = {
    "engine/_run/gates.py": {"AHEAD = 1000 :: 1000 and one more": _BOUND},
    "engine/_run/body.py": {
        "if cancellation is not None and task is not None: :: And for Or": "both are there, or neither is",
        "if carried is not None: :: if never": _SPEED,
    },
    "engine/_run/drive.py": {
        "_FAR_AHEAD = 500 :: 500 and one more": _BOUND,
        "_MOST_TIMED = 2_000 :: 2000 and one more": _BOUND,
        "if sys.version_info >= (3, 12): :: 12 and one more": _SPEED,
        "self._starting = (-1, -1) :: 1 and one more": _NEGATIVE,
        "self._starting: Key = (-1, -1) :: 1 and one more": _NEGATIVE,
        "self._times_left -= 1 :: 1 and one more": _BOUND,
        "while self._backlog() > _FAR_AHEAD and not self._is_ending():  # noqa: ASYNC110 :: Gt for GtE": _BOUND,
        "turn = clock + _TURN :: Add for Sub": _SPEED,
        "self._start((number, -1), loop, loop.time()) :: 1 and one more": _NEGATIVE,
    },
    "engine/_run/caching.py": {"if TYPE_CHECKING: :: if never": "it is what type checkers alone see"},
    "engine/_run/release.py": {
        "for plain, spread in zip(graph.plain_downstream, graph.spread_downstream, strict=True) :: True turned": (
            "both are as long as the graph"
        ),
    },
    "backends/batcher.py": {
        "_TURNS_FOR_COMPANY = 2 :: 2 and one more": _BOUND,
        "if self._wake is not None and self._may_take_off(): :: And for Or": _SPEED,
        "if self._waiting <= most and self._weight <= room and not is_beside: :: if never": _SPEED,
    },
    "engine/cloud/task_runner.py": {
        'own_steps(CloudTaskRunner, ["check_task_is_ready", "check_task_is_cached", "check_task_ready_to_map"]) :: '
        "call left out": _SPEED,
        'own_steps(CloudTaskRunner, ["load_results"], idle=False) :: call left out': _SPEED,
        "hands_on_errors = False :: False turned": "the flow runner says it of each",
    },
    "backends/store/transitions.py": {
        "if run.state == item.head.type and run.state in lifecycle.FINISHED: :: And for Or": _SPEED,
    },
    "backends/store/queue.py": {
        'row = tx.row("flow_run", flow_run_id, "Invalid flow run ID", lock=True) :: True turned': _RACE,
        'if row["owner"] is None or not ownership.is_silent(tx, row): :: Or for And': _RACE,
        'if row["owner"] is None or not ownership.is_silent(tx, row): :: if never': _RACE,
        "if epoch > 1: :: Gt for GtE": _SPEED,
        'while len(taken) < limit and not any(each["alone"] for each in taken): :: Lt for LtE': _SPEED,
        "_LOOKED_AT = 1000 :: 1000 and one more": _BOUND,
        "_FETCHED = 75 :: 75 and one more": _BOUND,
        "suited = suited[: limit - len(taken)] :: Sub for Add": _RACE,
        "lapsed = and_(run.owner.is_not(None), run.lease_expires <= tx.lease_now) :: LtE for Lt": _WAITED,
    },
}
"""Mutants that nobody can tell from the source, by module, changed line and change; and why."""

NEVER = "dask", "distributed", "ray", "flowloop", "tests"
"""What is not read before a fork: it starts threads, or is what changes."""

PATIENCE = 4.0
"""How many seconds a test may take, watched, that is to be run against mutants."""

MOST = 60.0
"""For how many seconds tests are run against one mutant at most, watched."""

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
        is_call = isinstance(node.value, (ast.Call, ast.Await)) and ".debug(" not in ast.unparse(node)
        return ast.copy_location(ast.Pass(), node) if is_call and self._is_chosen(node, "call left out") else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        is_attribute = isinstance(node.targets[0], (ast.Attribute, ast.Subscript))
        return ast.copy_location(ast.Pass(), node) if is_attribute and self._is_chosen(node, "not set") else node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        return node if node.value is None else self.generic_visit(node)

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        return node


def mutants(source: str, tries: int, rng: random.Random) -> Iterator[tuple[int, str, ast.AST]]:
    """Yield a line, what is changed in it, and the changed source."""
    counter = Mutator()
    counter.visit(ast.parse(source))
    for chosen in sorted(rng.sample(range(counter.count), min(tries, counter.count))):
        mutator = Mutator(chosen)
        tree = ast.fix_missing_locations(mutator.visit(ast.parse(source)))
        yield mutator.line, mutator.what, tree


def statement(source: str, line: int) -> range:
    """Return the lines of the innermost statement that a line is in; of one that has a body, those before it."""
    found = range(line, line + 1)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            body = getattr(node, "body", None)
            lines = range(node.lineno, max(body[0].lineno, node.lineno + 1) if body else (node.end_lineno or 0) + 1)
            if line in lines:
                found = lines
    return found


class Changed(MetaPathFinder, SourceFileLoader):
    """Gives a module that is imported another source than its file has."""

    def __init__(self, module: str, tree: Any) -> None:
        super().__init__("flowloop." + module.removesuffix(".py").replace("/", "."), str(ROOT / module))
        self.tree = tree

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self.tree, self.path, "exec")
        return code


class Watch:
    """A plugin that learns which test runs which line, and how long it takes."""

    def __init__(self, module: str) -> None:
        self.path = str(ROOT / module)
        self.coverage = coverage.Coverage(data_file=None, include=[self.path], concurrency=["thread", "greenlet"])
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.coverage.switch_context(item.nodeid)
        begun = time.perf_counter()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.perf_counter() - begun
            self.coverage.switch_context("")

    def lines(self) -> dict[int, list[str]]:
        return self.coverage.get_data().contexts_by_lineno(self.path)


def run_tests(tests: Sequence[str], *plugins: object) -> int:
    """Run tests in this process."""
    options = ["-x", "-v", "--assert=plain", "-p", "no:cacheprovider", "--timeout", "60"]
    options += ["-k", "not postgresql and not ended_long_ago", "-m", "not heavy"]
    # no Path, which would take a slash out of a URL in the name of a test
    return int(pytest.main([*options, *(os.path.join(ROOT, test) for test in tests)], plugins))


def in_fork(work: Callable[[], Any], patience: float) -> Any:
    """Return what a function returns in a fork of this process; None if it takes longer, or dies."""

    def begin(end: Connection) -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell begins in the background ignores it
        log = os.open(LOG, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(log, stream)
        end.send(work())
        end.close()
        os._exit(0)  # without a look at what the tests have left

    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=begin, args=(theirs,))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(patience) else None
    except EOFError:
        return None
    finally:
        ours.close()
        if process.is_alive() and process.pid is not None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                process.kill()
        process.join()


class Module:
    """A module, and its tests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = (ROOT / name).read_text(encoding="utf-8")
        self.files = [str(path) for one in TESTS[name].split() for path in sorted((ROOT / "tests").glob(one))]
        self.seconds: dict[str, float] = {}
        self.lines: dict[int, list[str]] = {}

    def learn(self) -> bool:
        """Run the tests against the source as it is, and return whether they pass."""

        def work() -> Any:
            watch = Watch(self.name)
            before = set(sys.modules)
            watch.coverage.start()
            code = run_tests(self.files, watch)
            watch.coverage.stop()
            return code, watch.seconds, watch.lines(), sorted(set(sys.modules) - before)

        code, seconds, self.lines, imported = in_fork(work, 900.0) or (1, {}, {}, [])
        for name in imported:
            if name.partition(".")[0] not in NEVER and not name.startswith("_"):  # the C half comes with its module
                try:
                    importlib.import_module(name)
                except ImportError:  # it is made by what imports it
                    continue
        self.seconds = {test: took for test, took in seconds.items() if took <= PATIENCE}
        everything = sorted(self.seconds, key=lambda test: self.seconds[test])
        return code == 0 and not self.notices(ast.parse(self.source), everything, patience=900.0)

    def tests_of(self, line: int) -> list[str]:
        """Return the tests that run a line, the quickest first: all, if it runs when the module is imported."""
        lines = statement(self.source, line)
        chosen = {test for one in lines for test in self.lines.get(one, ()) if test in self.seconds}
        if not chosen and any(one in self.lines for one in lines):
            chosen = set(self.seconds)
        quickest = sorted(chosen, key=lambda test: self.seconds[test])
        ends = accumulate(self.seconds[test] for test in quickest)
        return [test for test, end in zip(quickest, ends, strict=True) if end <= MOST]

    def notices(self, tree: ast.AST, tests: Sequence[str], *, patience: float = 120.0) -> bool:
        """Whether one of the tests fails with another source."""

        def work() -> int:
            sys.meta_path.insert(0, Changed(self.name, tree))
            return run_tests(tests)

        return bool(tests) and in_fork(work, patience) != 0

    def survivors(self, tries: int, seed: int) -> tuple[int, list[str]]:
        """Return how many mutants were tried, and which of them nothing notices."""
        equivalent = EQUIVALENT.get(self.name, {})
        tried, found = 0, []
        for line, what, tree in mutants(self.source, tries, random.Random(f"{self.name} {seed}")):
            text = self.source.splitlines()[line - 1].strip()
            if f"{text} :: {what}" in equivalent:
                continue
            tried += 1
            tests = self.tests_of(line)
            if not self.notices(tree, tests):
                found.append(f"line {line}: {what}")
                print(f"  {self.name}:{line} survives {len(tests)} tests: {what}: {text}", flush=True)
        return tried, found


def main() -> int:
    """Try the mutants of the modules named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    parser.add_argument("--tries", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--least", type=float, default=0.95, help="the share of mutants that has to be noticed")
    options = parser.parse_args()
    SCRATCH.mkdir(parents=True, exist_ok=True)
    os.chdir(SCRATCH)
    bad = 0
    for name in options.modules:
        module = Module(name)
        if not module.learn():
            print(f"{name}: its tests fail without any change, see {LOG}", flush=True)
            bad += 1
            continue
        tried, survivors = module.survivors(options.tries, options.seed)
        share = 1 - len(survivors) / max(1, tried)
        bad += share < options.least
        print(f"{name}: {share:.0%} of {tried} mutants noticed, seed {options.seed}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
