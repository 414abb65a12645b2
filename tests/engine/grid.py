"""Random flows, and what they compute in plain Python.

A program is a list of stages, each of which takes values of stages before it. `expected` computes them with loops;
`Built` wires them as a flow whose tasks fail first, pause, are cached and run wherever the trial says. `value_of` runs
a trial to its end: in one process, or recorded and taken up by one runner after the other, each with the flow built
anew; of some trials each runner is another process, over a database in a file.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable
from typing import Any

import anyio

from flowloop.backends import connect
from flowloop.engine import (
    Flow,
    Parameter,
    Settings,
    apply_map,
    case,
    flatten,
    merge,
    task,
    unmapped,
)
from flowloop.engine.cache_validators import all_inputs
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.executors import Executor, ProcessExecutor
from flowloop.engine.results import DefaultResult
from flowloop.engine.state import State
from flowloop.engine.testing import run
from flowloop.engine.triggers import all_finished

from .grid_bodies import (
    HOUR,
    Held,
    added,
    all_of,
    as_record,
    broken,
    changing,
    from_set,
    nested_source,
    one_more,
    pair_of,
    parity_of,
    repeated,
    source,
    spoiled,
    survivors,
    troubled,
    with_whole,
    zipped,
)
from .mortal import MortalBackend, run_until_death

NUMBER, NUMBERS, NESTED = "number", "numbers", "nested"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a program.

    Args:
        - kind: what it does, a key of `KINDS`
        - inputs: the numbers of the stages whose values it takes
        - size: how large what it makes is, where it says so itself
        - form: how it hands on what it makes: "list", "generator", "yields", "iterator" or "labelled"
        - late: which of its runs fail at first, and are tried again an hour later
        - paused: which of them pause for two hours
        - cached: whether its results serve other runs
    """

    kind: str
    inputs: tuple[int, ...] = ()
    size: int = 3
    form: str = "list"
    late: frozenset[int] = frozenset()
    paused: frozenset[int] = frozenset()
    cached: bool = False


@dataclasses.dataclass(frozen=True)
class Trial:
    """A program, and how it is run.

    Args:
        - stages: the program
        - recorded: whether its states are recorded, so that another process could go on
        - deaths: the writes in which one runner after the other dies
        - releases: whether results are let go
        - place: where bodies run: "loop", "threads" or "processes"
        - again: whether the flow runs a second time, with other sources
        - elsewhere: whether each runner is an operating system's process of its own, which is killed where it dies
    """

    stages: tuple[Stage, ...]
    recorded: bool = False
    deaths: tuple[int, ...] = ()
    releases: bool = False
    place: str = "loop"
    again: bool = False
    elsewhere: bool = False

    @property
    def ends(self) -> list[int]:
        """The stages whose values no other stage takes."""
        used = {number for stage in self.stages for number in stage.inputs}
        return [number for number in range(len(self.stages)) if number not in used]

    def axes(self) -> set[str]:
        """Return what this trial is about."""
        kinds = {stage.kind for stage in self.stages}
        found = {
            "map": any(KINDS[kind].is_mapped for kind in kinds),
            "flatten": bool(kinds & {"flat map", "flat total", "flat records"}),
            "retry late": any(stage.late for stage in self.stages),
            "pause": any(stage.paused for stage in self.stages),
            "continue elsewhere": self.recorded and bool(self.deaths),
            "cache": any(stage.cached for stage in self.stages),
            "release_results": self.releases,
            "case": bool(kinds & {"case", "merge in a case"}),
            self.place: True,
        }
        return {axis for axis, is_there in found.items() if is_there}


PLACES = ("loop", "threads", "processes")
AXES = (
    "map",
    "flatten",
    "retry late",
    "pause",
    "continue elsewhere",
    "cache",
    "release_results",
    "case",
    *PLACES,
)
PAIRS = [pair for pair in itertools.combinations(AXES, 2) if not set(pair) <= set(PLACES)]


# -- what a program computes -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Kind:
    """What one kind of stage takes, makes and computes."""

    takes: tuple[str, ...]
    makes: str
    compute: Callable[..., Any]
    is_mapped: bool = False
    is_source: bool = False


KINDS: dict[str, Kind] = {
    "source": Kind((), NUMBERS, source, is_source=True),
    "nested source": Kind((), NESTED, nested_source, is_source=True),
    "constant": Kind((), NUMBERS, lambda size, base: list(range(size)), is_source=True),
    "default": Kind((), NUMBERS, lambda size, base: list(range(5, 5 + size)), is_source=True),
    "typed": Kind((), NUMBERS, lambda size, base: list(range(size)), is_source=True),
    "spoiled": Kind((), NUMBER, lambda size, base: sum(source(size, base)), is_source=True),
    "survivors": Kind((NUMBERS,), NUMBERS, lambda xs: [x if x % 3 else -len("LookupError") for x in xs]),
    "map": Kind((NUMBERS,), NUMBERS, lambda xs: [x + 1 for x in xs], is_mapped=True),
    "zip": Kind((NUMBERS, NUMBERS), NUMBERS, lambda xs, ys: [x * 3 + y for x, y in zip(xs, ys, strict=False)], True),
    "with a constant": Kind((NUMBERS,), NUMBERS, lambda xs: [x + 102 for x in xs], is_mapped=True),
    "with a default": Kind((NUMBERS,), NUMBERS, lambda xs: [x + 2 for x in xs], is_mapped=True),
    "with the whole": Kind((NUMBERS, NUMBERS), NUMBERS, lambda xs, ys: [x + len(ys) for x in xs], is_mapped=True),
    "repeat": Kind((NUMBERS,), NESTED, lambda xs: [repeated(x) for x in xs], is_mapped=True),
    "flat map": Kind((NESTED,), NUMBERS, lambda xss: [x - 1 for xs in xss for x in xs], is_mapped=True),
    "flat total": Kind((NESTED,), NUMBER, lambda xss: sum(x for xs in xss for x in xs)),
    "flat records": Kind((NUMBERS,), NUMBERS, lambda xs: [x + 7 for x in xs], is_mapped=True),
    "unpack": Kind((NUMBERS,), NUMBERS, lambda xs: [x - 2 * x for x in xs], is_mapped=True),
    "apply": Kind((NUMBERS, NUMBERS), NUMBERS, lambda xs, ys: [
        2 * x + len(xs) + 1 for x, _ in zip(xs, ys, strict=False)
    ], is_mapped=True),
    "total": Kind((NUMBERS,), NUMBER, sum),
    "as list": Kind((NUMBERS,), NUMBERS, lambda xs: [x * 2 for x in xs]),
    "held": Kind((NUMBERS, NUMBER), NUMBER, lambda xs, n: sum(xs) + n),
    "case": Kind((NUMBER, NUMBER), NUMBER, lambda n, m: n + 1000 if n % 2 == 0 else m),
    "merge in a case": Kind((NUMBER, NUMBER), NUMBER, lambda n, m: n + 1 if m % 2 == 0 else n),
}  # fmt: skip


def expected(stages: Iterable[Stage], base: int = 0) -> list[Any]:
    """Return what each stage computes, with loops."""
    values: list[Any] = []
    for stage in stages:
        kind = KINDS[stage.kind]
        given = (stage.size, base) if kind.is_source else [values[number] for number in stage.inputs]
        values.append(kind.compute(*given))
    return values


# -- the same as a flow ----------------------------------------------------------------------------------


class Built:
    """A program as a flow.

    Args:
        - trial: the program, and how it is run
        - note: told of each body that begins: its name
    """

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self._number = 0
        self.given: dict[str, Any] = {}
        """Parameters of each run."""
        with Flow("grid") as self.flow:
            self._base = Parameter("base", default=0, type=int)
            self.made: list[Any] = []
            for self._number, stage in enumerate(trial.stages):
                self.made.append(self._wire(stage, [self.made[number] for number in stage.inputs]))
            self.collected: Any = self._task(Stage("end"), all_of, "collected")(
                values=[self.made[number] for number in trial.ends]
            )

    def _typed(self, stage: Stage) -> str:
        """Return the name of a parameter with a type, whose value is given to the run."""
        name = f"typed {self._number}"
        self.given[name] = frozenset(range(stage.size))
        return name

    def _task(self, stage: Stage, body: Callable[..., Any], name: str | None = None, **options: Any) -> Any:
        """Return a task of a body, with the troubles of its stage."""
        name = name or f"{self._number} {stage.kind}"
        if stage.late:
            options |= {"max_retries": 1, "retry_delay": HOUR}
        if stage.kind == "survivors" and body is survivors:
            options |= {"trigger": all_finished}
        if stage.cached:
            options["cache_for"] = 1000 * HOUR
            if stage.kind not in ("map", "zip", "repeat", "flat map"):
                options["cache_validator"] = all_inputs
        return task(
            troubled(body, stage.late, stage.paused, stage.form, is_async=self.trial.place == "loop"),
            name=name,
            **options,
        )

    def _wire(self, stage: Stage, given: list[Any]) -> Any:
        kind = stage.kind
        if kind in BODIES:
            made = self._task(stage, BODIES[kind])
        match kind:
            case "constant":
                return list(range(stage.size))
            case "default":
                return Parameter(f"default {self._number}", default=list(range(5, 5 + stage.size)))
            case "typed":
                return made(x=Parameter(self._typed(stage), type=frozenset[int]))
            case "spoiled":
                untroubled = Stage(kind, cached=True)  # a second attempt would be given what the first left
                own = self._task(Stage(kind), source, f"{self._number} own")(size=stage.size, base=self._base)
                return self._task(untroubled, spoiled)(x=own)
            case "survivors":
                fragile = self._task(dataclasses.replace(stage, late=frozenset()), broken, f"{self._number} broken")
                return made(x=fragile.map(x=given[0]))
            case "source" | "nested source":
                return made(size=stage.size, base=self._base)
            case "with a constant":
                return made.map(x=given[0], whole=unmapped([1, [2]]))
            case "with a default":
                whole = Parameter(f"whole {self._number}", default=[1, 2])
                return made.map(x=given[0], whole=unmapped(whole))
            case "with the whole":
                return made.map(x=given[0], whole=unmapped(given[1]))
            case "flat map":
                return made.map(x=flatten(given[0]))
            case "flat total":
                return made(xs=flatten(given[0]))
            case "flat records":
                records = self._task(dataclasses.replace(stage, late=frozenset()), as_record, f"{self._number} records")
                return made.map(record=flatten(records.map(x=given[0])))
            case "unpack":
                pairs = self._task(stage, pair_of, f"{self._number} pairs", nout=2)
                plus, minus = pairs.map(x=given[0])
                return made.map(x=plus, y=minus)
            case "apply":
                add_up = self._task(stage, with_whole, f"{self._number} whole")
                last = self._task(Stage(kind), added, f"{self._number} last")
                one = self._task(Stage(kind), one_more, f"{self._number} one")

                def wired(x: Any, whole: Any, y: Any) -> Any:
                    return last(x=add_up(x=x, whole=whole), y=one(x=x))  # y says only how often

                return apply_map(wired, given[0], unmapped(given[0]), given[1])
            case "held":
                return made(held=Held(given[0], b=[given[1]]))
            case "case":
                parity = self._task(Stage(kind), parity_of, f"{self._number} parity")(n=given[0])
                with case_of(parity, 0):
                    taken = made(n=given[0])
                return merge(taken, given[1])
            case "merge in a case":
                parity = self._task(Stage(kind), parity_of, f"{self._number} parity")(n=given[1])
                with case_of(parity, 0):
                    taken = made(x=merge(given[0]))
                return merge(taken, given[0])
            case _:
                call = made.map if KINDS[kind].is_mapped else made
                return call(**dict(zip(("x", "y"), given, strict=False)))


def case_of(condition: Any, value: Any) -> case:
    """Return a block of a branch; `case` is a word of `match` where it is used."""
    return case(condition, value)


BODIES: dict[str, Callable[..., Any]] = {
    "source": source,
    "nested source": nested_source,
    "typed": from_set,
    "survivors": survivors,
    "map": one_more,
    "zip": zipped,
    "with a constant": changing,
    "with a default": changing,
    "with the whole": with_whole,
    "repeat": repeated,
    "flat map": lambda x: x - 1,
    "flat total": lambda xs: sum(xs),
    "flat records": lambda record: record.x + 7,
    "unpack": added,
    "total": lambda x: sum(x),
    "as list": lambda x: [one * 2 for one in x],
    "held": lambda held: sum(held.a) + held.b[0],
    "case": lambda n: n + 1000,
    "merge in a case": one_more,
}


# -- running it ------------------------------------------------------------------------------------------


def value_of(trial: Trial, folder: str) -> list[list[Any]]:
    """Return what the ends of the program have in the end: once, or for the second run with other sources, too."""
    if trial.recorded and trial.elsewhere:
        from .grid_lives import values_by_many_processes

        return [values_by_many_processes(trial, folder, base) for base in bases(trial)]
    return run(_values(trial, folder))


def wanted(trial: Trial) -> list[list[Any]]:
    """Return what `value_of` has to."""
    return [[expected(trial.stages, base)[number] for number in trial.ends] for base in bases(trial)]


def bases(trial: Trial) -> list[int]:
    return [0, 1] if trial.again else [0]


async def _values(trial: Trial, folder: str) -> list[list[Any]]:
    if trial.place != "processes":
        return await _values_with(trial, folder, None)
    executor = ProcessExecutor(1)
    async with executor.start():  # one process serves all the rounds
        return await _values_with(trial, folder, executor)


async def _values_with(trial: Trial, folder: str, executor: Executor | None) -> list[list[Any]]:
    if not trial.recorded:
        built = Built(trial)
        return [await _in_one_process(built, executor, base) for base in bases(trial)]
    async with connection("memory://", folder) as backend:
        return [await _recorded(trial, backend, folder, executor, base) for base in bases(trial)]


ROUNDS = 12
"""After how many runners a flow run has to be at its end."""
PAUSE_OF_THE_DEAD = HOUR / 7
"""How long after a death the next runner comes."""


async def _in_one_process(built: Built, executor: Executor | None, base: int) -> list[Any]:
    options = {"release_results": built.trial.releases}
    state = await built.flow.run(parameters={"base": base, **built.given}, executor=executor, runner_options=options)
    return _value(state, built)


async def _recorded(trial: Trial, backend: Any, folder: str, executor: Executor | None, base: int) -> list[Any]:
    for death in trial.deaths:
        mortal = MortalBackend(backend, death, recorded=death % 2 == 0)
        built = Built(trial)  # nobody has the flow of another process: each builds its own
        flow_run_id = await flow_run_of(built, backend, folder, base)
        await run_until_death(built.flow, mortal, flow_run_id, **runner_options(trial, folder), takeover=True)
        await anyio.sleep(PAUSE_OF_THE_DEAD.total_seconds())
    for _ in range(ROUNDS):
        value = await one_life(trial, backend, folder, executor, base, takeover=True)
        if value is not None:
            return value
        await anyio.sleep(HOUR.total_seconds())
    raise AssertionError("the flow run does not end")


async def one_life(
    trial: Trial, backend: Any, folder: str, executor: Executor | None, base: int, **options: Any
) -> list[Any] | None:
    """Go on with the flow run of a trial, and return its value; None if there is more to do later."""
    built = Built(trial)
    flow_run_id = await flow_run_of(built, backend, folder, base)
    runner = CloudFlowRunner(built.flow, backend=backend, **runner_options(trial, folder), **options)
    state = await runner.run(context={"flow_run_id": flow_run_id}, executor=executor)
    if not state.is_finished():
        return None
    if state.result is None:  # it was over before this runner had it
        state.result = {built.collected: await _stored(built, backend, flow_run_id, settings_in(folder))}
    return _value(state, built)


async def flow_run_of(built: Built, backend: Any, folder: str, base: int) -> str:
    """Return the one flow run of a trial with these sources: whoever asks first creates it."""
    return await create_flow_run(
        built.flow, backend, {"base": base, **built.given}, settings=settings_in(folder), idempotency_key=f"base {base}"
    )


def connection(url: str, folder: str) -> Any:
    """Return a backend that lives in the time of the running loop."""
    return connect(url, settings=settings_in(folder), clock=asyncio.get_running_loop().clock)  # type: ignore[attr-defined]


def settings_in(folder: str) -> Settings:
    return Settings(home=os.path.join(folder, "home"), heartbeat_interval=10_000, check_cancellation_interval=10_000)


def runner_options(trial: Trial, folder: str) -> dict[str, Any]:
    return {"settings": settings_in(folder), "release_results": trial.releases}


async def _stored(built: Built, backend: Any, flow_run_id: str, settings: Settings) -> State:
    info = await backend.get_flow_run_info(flow_run_id)
    slug = built.flow.slugs[built.collected]
    [known] = [run for run in info.task_runs if run.task_slug == slug and run.map_index in (None, -1)]
    state: State = await known.state.load_result(DefaultResult(settings.results_dir))
    return state


def _value(state: State, built: Built) -> list[Any]:
    assert state.is_successful(), (state.message, state.result)
    value: list[Any] = state.result[built.collected].result
    return value


__all__ = ["AXES", "KINDS", "PAIRS", "PLACES", "Built", "Held", "Stage", "Trial", "expected", "value_of", "wanted"]
