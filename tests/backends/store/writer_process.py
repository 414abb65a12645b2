"""Run as a process of its own: claims task runs that other processes claim too, and finishes those it got.

Arguments: the URL of the database, then the ids of task runs. It prints the ids it got, and whatever went wrong.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

from flowloop.backends.store import Caller, StateUpdate, Store


def state(kind: str) -> bytes:
    return b'{"type":"%s","message":"the same from everybody"}' % kind.encode()


async def main(url: str, ids: list[str]) -> None:
    caller = Caller(client_id=str(os.getpid()))
    random.shuffle(ids)
    async with Store(url) as store:
        for start in range(0, len(ids), 5):
            some = ids[start : start + 5]
            claims = await store.set_task_run_states(caller, [StateUpdate(row, state("Running"), 1) for row in some])
            mine = [outcome.id for outcome in claims if outcome.status == "SUCCESS"]
            ends = await store.set_task_run_states(caller, [StateUpdate(row, state("Success"), 2) for row in mine])
            assert all(outcome.status == "SUCCESS" for outcome in ends), ends
            for outcome in claims:
                assert outcome.status == "SUCCESS" or outcome.code == "VERSION_LOCKING_ERROR", outcome
            await store.update_flow_run_heartbeat(caller, flow_run_id=some[0])
            await store.list_flow_runs(caller)
            print("\n".join(mine), flush=True)


asyncio.run(main(sys.argv[1], sys.argv[2:]))
