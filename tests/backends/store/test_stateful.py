"""A random conversation of several clients with one task run, held against the rules one by one."""

from __future__ import annotations

import asyncio
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowloop.backends.store import ANYONE, Caller, Outcome, StateUpdate, Store
from flowloop.engine.lifecycle import FINISHED, may_follow

from .world import ManualClock, World, state

KINDS = st.sampled_from(
    [
        "Pending",
        "Running",
        "Success",
        "Failed",
        "Retrying",
        "Looped",
        "Cached",
        "Cancelled",
        "Paused",
        "Mapped",
        "Skipped",
        "TriggerFailed",
    ]
)
CLIENTS = [Caller(client_id="one"), Caller(client_id="two"), Caller()]
MESSAGES = st.sampled_from(["x", "y"])


class Conversation(RuleBasedStateMachine):
    """What clients may see of a version locked task run, whatever they send.

    The model is the list of recorded states, and what each recorded claim's client was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.recorded: list[tuple[str, bytes, str | None]] = []
        self.sent: list[tuple[Caller, int | None, bytes, str, Outcome]] = []

    @initialize()
    def open(self) -> None:
        async def begin() -> World:
            store = Store("sqlite://", clock=ManualClock(), synchronous="OFF")
            await store.__aenter__()
            await store.default_tenant(ANYONE)
            world = await World(store, ManualClock()).build()
            await world.start()
            return world

        self.world = self.runner.run(begin())
        self.recorded = [("Pending", b"", None)]

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.runner.run(self.world.store.__aexit__())
        self.runner.close()

    @property
    def version(self) -> int:
        return len(self.recorded)

    def expect(self, caller: Caller, version: int | None, document: bytes, kind: str) -> tuple[str, int | None]:
        """The answer that the rules demand: its status, and the version it names; the model is moved along."""
        client = caller.client_id
        if version is not None and version < self.version:
            old_kind, old_document, old_client = self.recorded[version]
            ours = kind != "Running" or (client is not None and old_client == client)
            if (old_kind, old_document) == (kind, document) and ours:
                return "SUCCESS", version + 1
        current, current_document, _ = self.recorded[-1]
        if version is None and kind == current and document == current_document and current in FINISHED:
            return "SUCCESS", self.version
        if version is not None and version != self.version:
            return "VERSION_LOCKING_ERROR", self.version
        if not may_follow(current, kind):
            return "ERROR", self.version
        self.recorded.append((kind, document, client if kind == "Running" else None))
        return "SUCCESS", self.version

    @rule(
        items=st.lists(st.tuples(KINDS, MESSAGES, st.one_of(st.none(), st.integers(-3, 1))), min_size=1, max_size=4),
        caller=st.sampled_from(CLIENTS),
    )
    def send(self, items: list[tuple[str, str, int | None]], caller: Caller) -> None:
        """Send a batch for the run, its versions near the current one."""
        run_id = self.world.task_runs["a"]
        updates: list[StateUpdate] = []
        expected: list[tuple[str, int | None]] = []
        for kind, message, offset in items:
            version = None if offset is None else max(self.version + offset, 0)
            document = state(kind, message)
            updates.append(StateUpdate(run_id, document, version))
            expected.append(self.expect(caller, version, document, kind))
        outcomes = self.runner.run(self.world.store.set_task_run_states(caller, updates))
        assert [(outcome.code or outcome.status, outcome.version) for outcome in outcomes] == expected
        for update, (kind, _, _), outcome in zip(updates, items, outcomes, strict=True):
            self.sent.append((caller, update.version, update.state, kind, outcome))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_again(self, data: Any) -> None:
        """Send a message again whose answer may have been lost: a fenced client gets the same answer."""
        fenced = [
            item
            for item in self.sent
            if item[0].client_id is not None and item[1] is not None and item[4].status == "SUCCESS"
        ]
        if not fenced:
            return
        caller, version, document, _, outcome = data.draw(st.sampled_from(fenced))
        update = StateUpdate(self.world.task_runs["a"], document, version)
        assert self.runner.run(self.world.store.set_task_run_states(caller, [update])) == [outcome]

    @invariant()
    def the_history_is_what_was_acknowledged(self) -> None:
        if not hasattr(self, "world"):
            return

        async def look() -> tuple[dict[str, Any], list[dict[str, Any]]]:
            rows = await self.world.rows("task_run_state", task_run_id=self.world.task_runs["a"])
            return await self.world.task_run("a"), sorted(rows, key=lambda row: row["version"])

        run, rows = self.runner.run(look())
        assert [row["version"] for row in rows] == list(range(1, self.version + 1))
        assert [row["state"] for row in rows] == [kind for kind, _, _ in self.recorded]
        assert (run["version"], run["state"]) == (self.version, self.recorded[-1][0])
        assert bytes(run["serialized_state"]) == bytes(rows[-1]["serialized_state"])


Conversation.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestConversation = Conversation.TestCase
