"""Recovery: an application continues the flow runs that it started, after a crash or a long wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..engine.backend import Backend, FlowRunClaim, FlowRunReservation
from ..engine.cloud import create_flow_run
from ..engine.errors import FlowRunOwned
from ..engine.flow import Flow
from ..engine.limits import Limits, OpenLimits
from ..engine.settings import Settings
from .worker import Worker

__all__ = ["Recovery"]

_AGENTLESS = "agentless-recovery"


class Recovery(Worker):
    """Starts flow runs in the background of an application, and continues those that it left behind.

    Put it around the life of the application. At its launch, and from then on, it continues every run of these flows
    that had an owner and has none that lives: because its process was killed, because it waits for a late retry whose
    time has come, or because the application was stopped. Of several processes each run is continued by one, and any
    `Worker` that may run it may continue it, too. A run that ends its process again and again is Failed after
    ``FLOWLOOP_MAX_LAPSES`` times.

    What nobody has begun, a scheduled run for instance, is left to workers.

    Args:
        - backend: where the runs are; open
        - flows: the flows of the application
        - concurrency: how many flow runs at once
        - labels: those of the runs that are continued beside those without any
        - poll_interval: seconds between two looks for runs
        - grace: seconds that runs get to end by themselves when the application stops; the rest is continued at its
            next launch, or by another process
        - settings: for the runners
        - limits: how many task runs go on at once, and how often they begin, in all flow runs of this process together

    Example:

        ```python
        @asynccontextmanager
        async def lifespan(app):
            async with connect("sqlite:///runs.db") as backend, Recovery(backend, [report]) as recovery:
                app.state.recovery = recovery
                yield
        ```
    """

    _begun = True

    def __init__(
        self,
        backend: Backend,
        flows: Iterable[Flow] | Mapping[str, Flow],
        *,
        concurrency: int = 200,
        labels: Sequence[str] = (),
        poll_interval: float = 1.0,
        grace: float = 0.0,
        settings: Settings | None = None,
        limits: Limits | OpenLimits | None = None,
    ) -> None:
        given: Iterable[Flow] = flows.values() if isinstance(flows, Mapping) else flows
        named = {flow.name: flow for flow in given}
        super().__init__(
            backend,
            named,
            concurrency=concurrency,
            labels=labels,
            poll_interval=poll_interval,
            grace=grace,
            settings=settings,
            limits=limits,
        )

    async def start(self, flow: Flow, parameters: Mapping[str, Any] | None = None, **options: Any) -> str:
        """Create a flow run that is this process's from the start, begin it in the background, and return its id.

        Args:
            - flow: one of the flows of the application
            - parameters: values of the parameters, by name
            - options: more for `Backend.create_flow_run`: a name or a context for instance. With an
                ``idempotency_key``, a run that was started under it before is not begun again beside that.

        Raises:
            - FlowDefinitionError: for a flow that cannot run, or a parameter that cannot be; nothing is recorded
            - BackendError: if the flow cannot be registered, or the flow run cannot be created
        """
        owned = {"owner": self.id, "lease_seconds": self._lease_seconds}
        flow_run_id = await create_flow_run(
            flow, self._backend, parameters, settings=self._settings, **{"labels": [_AGENTLESS], **options, **owned}
        )
        claim: FlowRunClaim | None = FlowRunClaim(self.id, 1, self._lease_seconds)
        if options.get("idempotency_key") is not None:
            claim = await self._claimed(flow_run_id)
        if claim is not None:
            self._begin(FlowRunReservation(flow_run_id, "", flow.name, False, claim))
        return flow_run_id

    async def _claimed(self, flow_run_id: str) -> FlowRunClaim | None:
        """Return the claim to a flow run that may have been created before; None if it goes on, here or elsewhere."""
        try:
            claim = await self._backend.claim_flow_run(
                flow_run_id, self.id, lease_seconds=self._lease_seconds, max_lapses=self._settings.max_lapses
            )
        except FlowRunOwned:
            return None
        return None if flow_run_id in self._runs else claim
