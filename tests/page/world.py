"""What the tests of the page look at: flow runs of every kind, recorded as a runner records them."""

from __future__ import annotations

from typing import Any

from flowloop.backends.store import ANYONE, StateUpdate, Store

from ..backends.store.world import flow_document, state

TRACEBACK = 'Traceback (most recent call last):\n  File "prices.py", line 3, in price\nRuntimeError: bad row 7'


class Recorded:
    """A flow with a mapped task, and what happens in its runs."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.flow_id = ""

    async def register(self, name: str = "prices", **fields: Any) -> str:
        project = await self.store.get_or_create_project(ANYONE, name="demo")
        document = flow_document("numbers", "price", "total", name=name, **({"parameters": [{"name": "n"}]} | fields))
        document["tasks"][1]["mapped"] = True
        document["edges"][0]["mapped"] = True
        flow = await self.store.create_flow(ANYONE, project_id=project["id"], serialized_flow=document)
        self.flow_id = str(flow["id"])
        return self.flow_id

    async def begin(self, name: str, **fields: Any) -> Run:
        fields = {"parameters": {"n": 3}} | fields
        created = await self.store.create_flow_run(ANYONE, flow_id=self.flow_id, flow_run_name=name, **fields)
        run = Run(self.store, created["id"])
        await run.look()
        await run.flow("Running")
        return run


class Run:
    """One flow run, and short names for what is done to it."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.store = store
        self.id = run_id
        self.tasks: dict[str, str] = {}
        self.task_runs: dict[str, str] = {}

    async def look(self) -> None:
        info = await self.store.get_flow_run_info(ANYONE, flow_run_id=self.id)
        self.task_runs = {row["task_slug"]: row["id"] for row in info["task_runs"]}
        self.tasks = {row["task_slug"]: row["task_id"] for row in info["task_runs"]}

    async def flow(self, kind: str, message: str = "", **fields: Any) -> None:
        await self.store.set_flow_run_states(ANYONE, [StateUpdate(self.id, state(kind, message, **fields))])

    async def task(self, slug: str, *kinds: str, message: str = "", **fields: Any) -> None:
        for kind in kinds:
            update = StateUpdate(self.task_runs.get(slug, slug), state(kind, message, **fields))
            (outcome,) = await self.store.set_task_run_states(ANYONE, [update])
            assert outcome.status == "SUCCESS", outcome

    async def part(self, slug: str, name: str = "inner-ibis") -> dict[str, str]:
        """Begin the flow run that a task run is, of the same flow."""
        info = await self.store.get_flow_run_info(ANYONE, flow_run_id=self.id)
        begun = await self.store.start_subflow_run(
            ANYONE, flow_id=info["flow_id"], task_run_id=self.task_runs[slug], parameters={"n": 3}, name=name
        )
        return {"id": begun["id"], "name": name}

    async def map(self, slug: str, number: int) -> list[str]:
        children: list[str] = []
        for start in range(0, number, 5_000):
            indices = range(start, min(number, start + 5_000))
            rows = await self.store.get_or_create_task_runs(
                ANYONE, flow_run_id=self.id, task_id=self.tasks[slug], map_indices=indices
            )
            children += [row["id"] for row in rows]
        return children

    async def all(self, ids: list[str], kind: str, message: str = "") -> None:
        for start in range(0, len(ids), 5_000):
            updates = [StateUpdate(run_id, state(kind, message)) for run_id in ids[start : start + 5_000]]
            await self.store.set_task_run_states(ANYONE, updates)


async def failed_run(recorded: Recorded, name: str = "hasty-gannet", children: int = 30) -> Run:
    """A run of which one child failed at its third attempt, with logs, a traceback and an artifact."""
    run = await recorded.begin(name, parameters={"n": children})
    await run.task("numbers", "Running", "Success")
    await run.task("price", "Running", "Mapped")
    ids = await run.map("price", children)
    await run.all(ids, "Running")
    await run.all([each for at, each in enumerate(ids) if at != 7], "Success")
    for attempt in (1, 2):
        await run.task(ids[7], "Failed", message="RuntimeError('bad row 7')")
        await run.task(ids[7], "Retrying", message=f"attempt {attempt + 1} of 3")
        await run.task(ids[7], "Running")
    await run.task(ids[7], "Failed", message="RuntimeError('bad row 7')", context={"traceback": TRACEBACK})
    await run.task("total", "TriggerFailed", message="1 of 30 upstream tasks failed")
    lines = [
        {"flow_run_id": run.id, "task_run_id": ids[7], "level": level, "name": "prices", "message": message}
        for level, message in (("INFO", "looking at row 7"), ("ERROR", "bad row 7, see https://example.test/7"))
    ]
    await run.store.write_run_logs(ANYONE, logs=lines)
    await run.store.create_task_run_artifact(ANYONE, task_run_id=ids[7], kind="markdown", data="# Row 7\n\nis **bad**")
    await run.flow("Failed", "1 of 30 prices failed")
    return run


async def paused_run(recorded: Recorded, name: str = "modest-salmon") -> Run:
    """A run that waits for somebody."""
    run = await recorded.begin(name)
    await run.task("numbers", "Running", "Success")
    line = {"task_run_id": run.task_runs["price"], "level": "INFO", "name": "prices", "message": "three are above 0.9"}
    await run.store.write_run_logs(ANYONE, logs=[{"flow_run_id": run.id, **line}])
    await run.task("price", "Paused", message="3 prices are above the limit")
    await run.flow("Scheduled", "waits for its task runs")
    return run
