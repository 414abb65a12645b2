"""Flow runs in processes of their own, so that what ends its process ends nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping

from ..engine.backend import FlowRunReservation

__all__ = ["LEFT", "Isolation"]

LEFT = 75
"""The exit code of a process that has left its flow run to others: its file has another version of the flow by now."""

_WORKER = "from flowloop.backends.cli import main; main()"

logger = logging.getLogger("flowloop.worker")


class Isolation:
    """Has flow runs run by workers that take one run each, as ``flowloop worker --once`` does.

    Such a worker claims the run for itself: it goes on when this process ends, and if it dies, its own death is known.

    Args:
        - targets: the file of each flow by the flow's name, as the command line takes it
        - backend_url: where the runs are
        - everything: whether every flow run is isolated, or only what is to run alone
    """

    def __init__(self, targets: Mapping[str, str], backend_url: str, *, everything: bool = False) -> None:
        self._command = [sys.executable, "-c", _WORKER, "worker", "--once"]
        self._targets = targets
        self._environment = {**os.environ, "FLOWLOOP_BACKEND_URL": backend_url}
        self._everything = everything
        self._at_once = max(2, os.cpu_count() or 1)
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    @property
    def has_room(self) -> bool:
        """Whether one more flow run may be run alone: each costs the memory of a process."""
        return self._everything or len(self._processes) < self._at_once

    def takes(self, taken: FlowRunReservation) -> bool:
        """Whether a flow run is run in a process of its own."""
        return self._everything or taken.alone > 0

    async def run(self, taken: FlowRunReservation) -> int:
        """Run a flow run until its process ends, and return its exit code."""
        process = await asyncio.create_subprocess_exec(
            *(*self._command, "--run", taken.flow_run_id, self._targets[taken.flow_name]),
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
        )
        self._processes[taken.flow_run_id] = process
        logger.info("flow run %s of %r begins in process %s", taken.flow_run_id, taken.flow_name, process.pid)
        try:
            code = await process.wait()
        finally:
            del self._processes[taken.flow_run_id]
        if code not in (0, 1, LEFT):  # what it was is recorded when somebody takes the run
            logger.error("the process of flow run %s ended with %s before the run did", taken.flow_run_id, code)
        return code

    def stop(self) -> None:
        """Have every process hand over what it runs, and end."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
