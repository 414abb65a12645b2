"""Results in files: what it costs to have each on the disk before the state that names it."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any, Self

from flowloop.engine import Flow, Settings, task
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.results import LocalResult

from .harness import Row, Sample, compare
from .recording import Place, open_backend, places, scratch, settings

TITLE = "A mapped flow run whose results are files, synced before the states that name them"

BASELINE = "files that are not synced"
SUBJECT = "synced files"
_PLACE = "embedded, FULL"
_SIZES = {"quick": (1_000,), "full": (1_000, 10_000)}


class _Unsynced(LocalResult):
    """Files that are left to the system to write in its time."""

    async def write(self, value: Any, /, **kwargs: Any) -> Self:
        new = await super().write(value, **kwargs)
        new.is_unsynced = False
        return new


def run(scale: str) -> list[Row]:
    """Measure a map with its results in files, synced, against one whose files are not."""
    rows: list[Row] = []
    with scratch() as folder, places((_PLACE,)) as found:
        options = settings(folder)
        kinds = {BASELINE: _Unsynced, SUBJECT: LocalResult}
        for size in _SIZES[scale]:
            contenders = {
                name: functools.partial(_mapped, found[_PLACE], options, kind(dir=folder / name), size)
                for name, kind in kinds.items()
            }
            rows += compare(
                "map",
                contenders,
                unit="s",
                rounds=5 if scale == "full" else 2,
                baseline=BASELINE,
                size=size,
                warm_up=False,
            )
    return rows


def _mapped(place: Place, options: Settings, result: LocalResult, size: int) -> Sample:
    @task(result=result)
    async def double(n: int) -> int:
        return 2 * n

    with Flow("files") as flow:
        doubled = double.map(list(range(size)))

    async def body() -> float:
        async with open_backend(place, options) as backend:
            flow_run_id = await create_flow_run(flow, backend, settings=options)
            start = time.perf_counter()
            runner = CloudFlowRunner(flow, backend=backend, settings=options)
            state = await runner.run(context={"flow_run_id": flow_run_id}, return_tasks=[doubled])
            took = time.perf_counter() - start
            assert state.is_successful(), state
            assert len({child._result.location for child in state.result[doubled].map_states}) == size
            return took

    took = asyncio.run(body())
    return Sample(took, {"files/s": size / took})
