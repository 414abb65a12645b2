"""The worker: takes flow runs that are ready, and runs many of them at once on one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Self
from urllib.parse import urlsplit

import anyio
from anyio.abc import TaskGroup

from ..engine.backend import Backend, FlowRunReservation
from ..engine.cloud import CloudFlowRunner
from ..engine.errors import BackendError, BackendUnavailable, OwnershipLost
from ..engine.flow import Flow
from ..engine.limits import Limits, OpenLimits
from ..engine.presence import new_owner
from ..engine.results import DefaultResult, LocalResult
from ..engine.results.default import default_result_in
from ..engine.runner import settle
from ..engine.settings import Settings
from ..engine.state import Failed, Scheduled, State
from .isolation import LEFT, Isolation
from .services import look_after

__all__ = ["FlowLoader", "Worker"]

FlowLoader = Callable[[FlowRunReservation], Flow | Awaitable[Flow | None] | None]
"""Finds the flow of a flow run, sync or async; None leaves the run to other workers."""

_LONGEST_REASON = 10_000

logger = logging.getLogger("flowloop.worker")

_PORTION = 10
"""As many flow runs are taken at first: another worker that asks meanwhile gets its share."""

_LARGEST_PORTION = 80
"""As many at most, while there are always more: each time twice as many as before, as a portion costs a commit."""

_LISTEN_AGAIN = 1.0
"""Seconds until a stream that has ended is opened again."""

_LOOK_ANYWAY = 90.0
"""Seconds after which a worker looks that has heard of nothing."""


class Worker:
    """Takes flow runs that are ready, and runs many of them at once on the caller's event loop.

    A run is claimed for a lease, which is renewed as long as it runs: no two workers run the same one. What a worker
    that died had claimed is continued by the next one, on the same machine at once, and elsewhere as soon as the lease
    has run out. A body that holds up the event loop for longer than the lease makes a worker look dead.

    A run whose worker died may be what that one died of. It is begun again after a while, by a worker that runs nothing
    else and, for some time, takes nothing beside it, so that no other run ends with it; its third death is its last.

    On a backend that has the database open itself it also does what a server does now and then, one worker of all at a
    time: it gives places under limits back that died with their processes, looks after runs that nobody runs, and plans
    runs where the backend was opened with ``schedules=True``.

    Args:
        - backend: where the runs are; open
        - flows: the flows by name, or a function that finds the flow of a run. Of flows by name, runs of another
          project than the settings', and of versions with other tasks, are left to other workers.
        - concurrency: how many flow runs at once
        - labels: a run goes to a worker that has all its labels, and one without labels to a worker without any
        - poll_interval: seconds between two looks for runs; one that hears of them looks less often while none is
            under way
        - lease_seconds: how long a run is this worker's without a sign of life; twice the heartbeat interval if None
        - grace: seconds that runs get to end by themselves after `stop`; the rest is handed over to other workers
        - settings: for the runners
        - limits: how many task runs go on at once, and how often they begin, in all flow runs of this process together;
            for those in processes of their own hold the limits of the backend alone
        - isolation: runs flow runs in processes of their own, those at least that must have no other beside them

    Example:

        ```python
        async with connect("sqlite:///runs.db") as backend, Worker(backend, {flow.name: flow}):
            await application()
        ```
    """

    _begun = False
    """Whether only flow runs are taken that had an owner before."""

    def __init__(
        self,
        backend: Backend,
        flows: Mapping[str, Flow] | FlowLoader,
        *,
        concurrency: int = 200,
        labels: Sequence[str] = (),
        poll_interval: float = 1.0,
        lease_seconds: float | None = None,
        grace: float = 30.0,
        settings: Settings | None = None,
        isolation: Isolation | None = None,
        limits: Limits | OpenLimits | None = None,
    ) -> None:
        self.id = new_owner()
        self._isolation = isolation
        self._limits = limits.open() if isinstance(limits, Limits) else limits
        self._alone: str | None = None
        """The flow run that is run here alone, until this time of the loop:"""
        self._alone_until = 0.0
        self._backend = backend
        self._flow_names = list(flows) if isinstance(flows, Mapping) else None
        self._flow_of: FlowLoader = (lambda taken: flows.get(taken.flow_name)) if isinstance(flows, Mapping) else flows
        self._concurrency = concurrency
        self._labels = labels
        self._poll_interval = poll_interval
        self.grace = grace
        self._settings = settings or Settings.from_env()
        self._lease_seconds = self._settings.lease_seconds if lease_seconds is None else lease_seconds
        self._own_flows = list(flows.values()) if isinstance(flows, Mapping) else []
        self._suits: dict[str, bool] = {}
        """Whether the flows of the runs that were taken are those that this worker has, by their ids."""
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._runners: dict[str, CloudFlowRunner] = {}
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_told = asyncio.Event()
        self._listens = False
        self._group: TaskGroup | None = None

    @property
    def flow_run_ids(self) -> list[str]:
        """The flow runs that are this worker's now."""
        return list(self._runs)

    # -- working -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._group = await anyio.create_task_group().__aenter__()
        self._group.start_soon(self.run)
        return self

    async def __aexit__(self, *exc_info: object) -> bool | None:
        assert self._group is not None
        self.stop()
        return await self._group.__aexit__(*exc_info)  # type: ignore[arg-type]

    async def run(self) -> None:
        """Work until `stop` is called; a cancelled worker hands over what it runs.

        Raises:
            - BackendRejected: if the backend does not hand out runs to workers
        """
        self._warn_of_own_files()
        beside = [
            asyncio.create_task(self._listen(), name=f"what is ready for worker {self.id}"),
            asyncio.create_task(look_after(self._backend), name=f"services of worker {self.id}"),
        ]
        try:
            await self._take_runs()
            await self._wait_for_runs()
        finally:
            for task in beside:
                task.cancel()
            with anyio.CancelScope(shield=True):
                await self._hand_over()
                await asyncio.wait(beside)

    def _warn_of_own_files(self) -> None:
        """Say so where results are files that only this machine has, and others may have to go on with them."""
        if self._settings.results or _is_here(self._backend.url):
            return
        kept = {flow.name: place for flow in self._own_flows for place in _own_places(flow, self._settings)}
        for name, place in kept.items():
            logger.warning(
                "the results of flow %r are files of this machine, in %s, and its runs are recorded elsewhere, at %s: "
                "a worker on another machine cannot go on with them. Name a folder that all share, or a bucket, in "
                "FLOWLOOP_RESULTS or as the result of the flow",
                *(name, place, self._backend.url),
            )

    def stop(self, *, at_once: bool = False) -> None:
        """Take no more runs. Those under way get the grace to end by themselves, and are then handed over.

        Args:
            - at_once: whether to hand them over without a grace
        """
        self._stopping.set()
        if at_once:
            self._hurrying.set()

    async def _take_runs(self) -> None:
        portion = _PORTION
        while not self._stopping.is_set():
            self._is_told.clear()
            wanted = min(portion, self._concurrency - len(self._runs))
            reserved = await self._reserved(wanted)
            portion = min(2 * portion, _LARGEST_PORTION) if len(reserved) == portion else _PORTION
            for taken in reserved:
                self._begin(taken)
            keeps_alone = self._keeps_alone()
            if len(self._runs) >= self._concurrency or keeps_alone:
                self._has_room.clear()
                await _first_of(self._stopping, self._has_room, seconds=keeps_alone or None)
            elif len(reserved) < wanted and not any(taken.alone for taken in reserved):
                await _first_of(self._stopping, self._is_told, seconds=await self._until_next_look())
            else:
                await asyncio.sleep(0)  # the others' turn

    def _keeps_alone(self) -> float:
        """For how many seconds nothing is taken beside what is run here alone."""
        left = self._alone_until - asyncio.get_running_loop().time()
        return max(left, 0.0) if self._alone in self._runs else 0.0

    async def _until_next_look(self) -> float:
        """For how many seconds nothing is missed: a worker that listens looks by itself when a time has come."""
        if not self._listens or self._runs:  # what is under way may be ready again at any moment
            return self._poll_interval
        try:
            seconds = await self._backend.next_ready()
        except BackendError as error:
            logger.debug("when the next flow run is ready cannot be told: %s", error)
            return self._poll_interval
        return max(self._poll_interval, _LOOK_ANYWAY if seconds is None else min(seconds, _LOOK_ANYWAY))

    async def _listen(self) -> None:
        """Have the backend tell when there may be runs to take; where it cannot, it is asked at intervals alone."""
        while (stream := self._backend.watch_ready()) is not None:
            try:
                async with stream as told:
                    self._listens = True
                    self._is_told.set()  # what was ready before
                    async for _ in told:
                        self._is_told.set()
            except BackendError as error:
                logger.debug("the backend cannot be listened to: %s", error)
            self._listens = False
            self._is_told.set()
            await asyncio.sleep(_LISTEN_AGAIN)

    async def run_one(self, taken: FlowRunReservation | None = None) -> str | None:
        """Run one flow run until it has ended, or `stop` is called.

        Args:
            - taken: the flow run, which is claimed; the next one that is ready if None

        Returns:
            - str | None: its id; None if none is ready, or the one that was given is left to others
        """
        while reserved := await self._reserved(1) if taken is None else [taken]:
            self._begin(reserved[0])
            try:
                while self._runs and not self._stopping.is_set():
                    self._has_room.clear()
                    await _first_of(self._has_room, self._stopping)
                await self._wait_for_runs()
            finally:
                if self._runs:
                    with anyio.CancelScope(shield=True):
                        await self._hand_over()
            if self._suits.get(reserved[0].flow_id, True):
                return reserved[0].flow_run_id
            if taken is not None or self._stopping.is_set():
                break
        return None

    def _begin(self, taken: FlowRunReservation) -> None:
        if taken.alone and self._isolation is None:
            self._alone = taken.flow_run_id
            self._alone_until = asyncio.get_running_loop().time() + taken.alone
        before = self._runs.get(taken.flow_run_id)  # it has given the run up, and may not have ended yet
        task = asyncio.create_task(self._run(taken, before), name=f"flow run {taken.flow_run_id}")
        self._runs[taken.flow_run_id] = task

    async def _reserved(self, limit: int) -> list[FlowRunReservation]:
        try:
            return await self._backend.reserve_flow_runs(
                self.id,
                limit=limit,
                labels=self._labels,
                flow_names=self._flow_names,
                lease_seconds=self._lease_seconds,
                max_lapses=self._settings.max_lapses,
                begun=self._begun,
                not_flow_ids=[flow_id for flow_id, suits in self._suits.items() if not suits],
                alone=not self._runs if self._isolation is None else self._isolation.has_room,
            )
        except BackendUnavailable as error:
            logger.warning("no flow runs: %s", error)
            return []

    async def _run(self, taken: FlowRunReservation, before: asyncio.Task[None] | None) -> None:
        try:
            if before is not None:
                await asyncio.wait([before])
            if self._flow_names is not None and not await self._is_suited(taken):
                await self._leave(taken)
                return
            if self._isolation is not None and self._isolation.takes(taken):
                keeping = asyncio.create_task(self._keep(taken))
                try:
                    code = await self._isolation.run(taken)
                    if code == LEFT:
                        self._suits[taken.flow_id] = False
                    elif code != 0:  # if it could not even claim the run, it is not to be begun again at once
                        await _first_of(self._stopping, seconds=self._poll_interval)
                finally:
                    keeping.cancel()
                    await asyncio.wait([keeping])
                await self._backend.release_flow_run(taken.flow_run_id, taken.claim.epoch)
                return
            state = await self._final_state(taken)
            if state is None or not state.is_finished():
                # what cannot go on now is not taken again at once
                await _first_of(self._stopping, seconds=self._poll_interval)
            runner = self._runners.get(taken.flow_run_id)
            if runner is None or not runner.has_given_up:
                await self._backend.release_flow_run(taken.flow_run_id, taken.claim.epoch)
        except BackendError as error:
            logger.warning("flow run %s is free when its lease has run out: %s", taken.flow_run_id, error)
        finally:
            if self._runs.get(taken.flow_run_id) is asyncio.current_task():
                del self._runs[taken.flow_run_id]
                self._runners.pop(taken.flow_run_id, None)
            self._has_room.set()

    async def _keep(self, taken: FlowRunReservation) -> None:
        """Keep a flow run until another process has claimed it."""
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            try:
                await self._backend.update_flow_run_heartbeat(taken.flow_run_id, taken.claim.epoch)
            except OwnershipLost:
                return
            except BackendError as error:
                logger.debug("flow run %s could not be kept: %s", taken.flow_run_id, error)

    async def _final_state(self, taken: FlowRunReservation) -> State | None:
        try:
            flow = await settle(self._flow_of(taken))
            if flow is None:
                return None
            runner = CloudFlowRunner(
                flow,
                backend=self._backend,
                settings=self._settings,
                claim=taken.claim,
                info=taken.info,
                limits=self._limits,
            )
            self._runners[taken.flow_run_id] = runner
            if self._hurrying.is_set():
                return None
            logger.info("flow run %s of %r begins", taken.flow_run_id, taken.flow_name)
            state = await runner.run(context={"flow_run_id": taken.flow_run_id}, return_tasks=[])
        except OwnershipLost as error:
            logger.warning("%s", error)
            return None
        except BackendUnavailable as error:
            logger.warning("flow run %s of %r goes on later: %s", taken.flow_run_id, taken.flow_name, error)
            return None
        except Exception as error:
            logger.exception("flow run %s of %r could not be run", taken.flow_run_id, taken.flow_name)
            return await self._fail(taken, error)
        ended = f"{type(state).__name__}: {state.message}" if state.is_failed() else type(state).__name__
        logger.info("flow run %s of %r is %s", taken.flow_run_id, taken.flow_name, ended)
        return state

    async def _is_suited(self, taken: FlowRunReservation) -> bool:
        """Whether a flow run is of the project and of the version of the flow that this worker has of its name."""
        suits = self._suits.get(taken.flow_id)
        if suits is None:
            flow = await settle(self._flow_of(taken))
            info = taken.info or await self._backend.get_flow_run_info(taken.flow_run_id)
            in_project = info.project.name == self._settings.project
            slugs = None if flow is None else set(flow.slugs.values())
            suits = in_project and {known.task_slug for known in info.task_runs} == slugs
            self._suits[taken.flow_id] = suits
            if not suits:
                other = "version" if in_project else f"project ({info.project.name!r})"
                told = (
                    "flow run %s of %r is of another %s than this worker has: it is left to others, as are all like it"
                )
                logger.warning(told, taken.flow_run_id, taken.flow_name, other)
        return suits

    async def _leave(self, taken: FlowRunReservation) -> None:
        """Give a flow run back, so that another worker finds it, also if its former owner died."""
        backend, claim = self._backend, taken.claim
        if taken.lapsed:
            info = await backend.get_flow_run_info(taken.flow_run_id)
            waiting = Scheduled("Left to a worker that has this version of the flow.")
            await backend.set_flow_run_state(taken.flow_run_id, info.version, waiting, epoch=claim.epoch)
        await backend.release_flow_run(taken.flow_run_id, claim.epoch)

    async def _fail(self, taken: FlowRunReservation, error: Exception) -> State | None:
        """Record that a flow run cannot be run, so that nobody tries it again and again."""
        info = await self._backend.get_flow_run_info(taken.flow_run_id)
        if info.state.is_finished():
            return info.state
        reason = f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
        failed = Failed(f"The flow run could not be run: {reason}", result=error)
        return await self._backend.set_flow_run_state(taken.flow_run_id, info.version, failed, epoch=taken.claim.epoch)

    # -- stopping ----------------------------------------------------------------------------------------

    async def _wait_for_runs(self) -> None:
        with anyio.move_on_after(self.grace):
            while self._runs and not self._hurrying.is_set():
                self._has_room.clear()
                await _first_of(self._has_room, self._hurrying)

    async def _hand_over(self) -> None:
        self.stop(at_once=True)
        for runner in self._runners.values():
            runner.cancel("handover")
        if self._isolation is not None:
            self._isolation.stop()
        if self._runs:
            await asyncio.wait(self._runs.values())


async def _first_of(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Wait until one of the events is set, or for so many seconds."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waiting:
            wait.cancel()


def _is_here(url: str) -> bool:
    """Whether a backend is on this machine."""
    parts = urlsplit(url)
    return parts.scheme in ("memory", "sqlite") or (parts.hostname or "") in ("", "localhost", "127.0.0.1", "::1")


def _own_places(flow: Flow, settings: Settings) -> list[str]:
    """Return the folders in which a flow keeps results that nobody else has."""
    given = flow.result or default_result_in(settings.results_place)
    results = [task.result or given for task in flow.tasks if task.checkpoint is not False]
    files = [one for one in results if isinstance(one, LocalResult | DefaultResult)]
    return [one.dir for one in files if isinstance(one, LocalResult) or one.is_on_this_machine]
