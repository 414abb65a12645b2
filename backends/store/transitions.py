"""Recording states: the path that every transition takes.

A batch costs two reads (the runs, locked; their flows) and one write for all its items together. In between,
plain Python decides item by item, in the order they were sent, what becomes of each: the rules are in
`rules`, places under a limit in `slots`. Nothing is written for an item that is refused, and its refusal
touches no other.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import select

from . import rules
from .ids import is_id
from .once import once
from .records import ANYONE, VERSION_LOCKING_ERROR, Caller, Kind, Outcome, StateChange, StateUpdate
from .rules import StateHead
from .slots import Slots
from .tx import Tx, document, in_utc, tables

__all__ = ["QUEUE_INTERVAL", "no_result", "set_flow_run_states", "set_states", "set_task_run_states"]

VERSION = "1.4.1"
"""The version of the dialect that documents made here claim."""

SUBMIT_LOCK = datetime.timedelta(seconds=30)
"""For how long nobody else may submit a flow run that has been submitted."""

QUEUE_INTERVAL = datetime.timedelta(seconds=30)
"""When a run that found no place asks again."""

_CHUNK = 5000  # as many items share their statements at most: a statement takes a limited number of parameters

_NAMES = {"flow_run": "flow run", "task_run": "task run"}

Record = tuple[Any, ...]
"""What `Database.append_states` writes for one state: state id, tenant, version, timestamp, type, message,
start time, document, client id, started, ended, heartbeat, cached inputs or time of submission, run id."""


class _Run:
    """One run while a batch is applied to it."""

    __slots__ = (
        "cached_inputs",
        "flow_key",
        "id",
        "repeats",
        "state",
        "submitted",
        "tenant_id",
        "version",
    )

    def __init__(self, kind: Kind, row: Sequence[Any]) -> None:
        self.id, self.version, self.state, self.tenant_id = row[0], row[1], row[2], row[3]
        self.flow_key: str = row[5]
        self.cached_inputs: str | None = None
        self.submitted: datetime.datetime | None = None
        if kind == "task_run":
            self.cached_inputs = row[4]
        elif row[4] is not None:
            self.submitted = datetime.datetime.fromisoformat(row[4]) if isinstance(row[4], str) else row[4]
        self.repeats = 0


class _Flow:
    """What the rules need of the flow of a run."""

    __slots__ = ("limited", "locked", "state")

    def __init__(self, row: Sequence[Any]) -> None:
        self.state: str | None = row[1]
        self.locked = bool(row[2])
        self.limited = bool(row[3])


class _Item:
    """One update with its document read."""

    __slots__ = ("head", "text", "update")

    def __init__(self, update: StateUpdate, head: StateHead, text: str) -> None:
        self.update = update
        self.head = head
        self.text = text


def no_result() -> dict[str, str]:
    """Return the document of the absence of a result."""
    return {"__version__": VERSION, "type": "NoResultType"}


def set_task_run_states(tx: Tx, updates: Sequence[StateUpdate], idempotency_key: str | None = None) -> list[Outcome]:
    """Record states of task runs; as `set_states`."""
    return set_states(tx, "task_run", updates, idempotency_key)


def set_flow_run_states(tx: Tx, updates: Sequence[StateUpdate], idempotency_key: str | None = None) -> list[Outcome]:
    """Record states of flow runs; as `set_states`."""
    return set_states(tx, "flow_run", updates, idempotency_key)


def set_states(tx: Tx, kind: Kind, updates: Sequence[StateUpdate], idempotency_key: str | None = None) -> list[Outcome]:
    """Record states, each item for itself and all in one transaction.

    Args:
        - kind: whose states they are
        - updates: what to record; several for one run are applied in order
        - idempotency_key: names this batch; sent again under the same key it is answered as it was the first time

    Returns:
        - list[Outcome]: one for each update, in their order
    """
    if idempotency_key is None:
        return _apply(tx, kind, updates, tx.caller)
    answered = once(tx, f"{kind}:{idempotency_key}", lambda tx: _apply(tx, kind, updates, tx.caller))
    return msgspec.convert(answered, list[Outcome])


def _apply(tx: Tx, kind: Kind, updates: Sequence[StateUpdate], caller: Caller) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for start in range(0, len(updates), _CHUNK):
        outcomes += _Batch(tx, kind, caller).apply(updates[start : start + _CHUNK])
    return outcomes


class _Batch:
    """A batch of updates of one kind, while it is applied."""

    def __init__(self, tx: Tx, kind: Kind, caller: Caller) -> None:
        self.tx = tx
        self.kind: Kind = kind
        self.caller = caller
        self.fenced = caller.client_id is not None
        self.now = tx.database.moment(tx.now)
        self.runs: dict[str, _Run] = {}
        self.flows: dict[str, _Flow] = {}
        self.recorded: dict[tuple[str, int], tuple[str, str, str | None]] = {}
        self.rows: list[Record] = []
        self.cancelled: list[_Item] = []
        self.submitted: list[str] = []
        self.slots = Slots(tx, kind)

    def apply(self, updates: Sequence[StateUpdate]) -> list[Outcome]:
        items: list[_Item | Outcome] = [self.read(item) for item in updates]
        readable = [item for item in items if isinstance(item, _Item)]
        if readable:
            self.load(readable)
        outcomes = [self.decide(item) if isinstance(item, _Item) else item for item in items]
        if self.rows:
            self.tx.database.append_states(self.tx.connection, self.kind, self.rows)
        self.slots.save()
        self.follow_up()
        return outcomes

    def read(self, item: StateUpdate) -> _Item | Outcome:
        try:
            head, text = rules.read_head(item.state)
        except ValueError as error:
            return Outcome(item.run_id, "ERROR", str(error))
        return _Item(item, head, text)

    # -- reading what the rules need -------------------------------------------------------------------

    def load(self, items: Sequence[_Item]) -> None:
        tx, kind = self.tx, self.kind
        ids = list(dict.fromkeys(item.update.run_id for item in items))
        tenant_id = self.caller.tenant_id
        for row in tx.database.lock_runs(tx.connection, kind, ids):
            if tenant_id is None or row[3] == tenant_id:
                self.runs[row[0]] = _Run(kind, row)
        if not self.runs:
            return
        # After the runs are locked: what another transaction did to the flow run before it let go of them is seen.
        keys = list({run.flow_key for run in self.runs.values()})
        for row in tx.database.flow_facts(tx.connection, kind, keys):
            self.flows[row[0]] = _Flow(row)
        self.load_repeated(items)
        if any(flow.limited for flow in self.flows.values()):
            self.slots.load([run.id for run in self.runs.values() if self.flows[run.flow_key].limited])

    def load_repeated(self, items: Sequence[_Item]) -> None:
        """Read the states that a repeated message would have recorded."""
        keys: list[tuple[str, int]] = []
        for item in items:
            run = self.runs.get(item.update.run_id)
            if run is None or not self.is_strict(run):
                continue
            version = item.update.version
            if version is None:
                if run.state == item.head.type and run.state in rules.FINISHED:
                    keys.append((run.id, run.version))
            elif 0 <= version < run.version:
                keys.append((run.id, version + 1))
        if keys:
            for row in self.tx.database.recorded_states(self.tx.connection, self.kind, keys):
                self.recorded[row[0], row[1]] = (row[2], row[3], row[4])

    def is_strict(self, run: _Run) -> bool:
        return self.fenced or self.flows[run.flow_key].locked

    # -- deciding --------------------------------------------------------------------------------------

    def decide(self, item: _Item) -> Outcome:
        run = self.runs.get(item.update.run_id)
        if run is None:
            return self.refuse(item, None, "")
        strict = self.is_strict(run)
        if strict and (repeated := self.find_repeated(run, item)) is not None:
            return repeated
        new, version = item.head.type, item.update.version
        if new == "Submitted" and run.submitted is not None and run.submitted + SUBMIT_LOCK > self.tx.now:
            message = "State update failed: this run has already been submitted."
            return Outcome(run.id, "ERROR", message, run.version)
        if strict and version is not None and version != run.version:
            return self.refuse(item, run, f": version {version} is not the current version.", VERSION_LOCKING_ERROR)
        if self.kind == "task_run" and new in rules.RUNNING and self.flows[run.flow_key].state != "Running":
            why = f": provided a running state but associated flow run {run.flow_key} is not in a running state."
            return self.refuse(item, run, why)
        if strict and not rules.may_follow(run.state, new):
            return self.refuse(item, run, f": the run is finished ({run.state}).")
        return self.accept(run, item)

    def refuse(self, item: _Item, run: _Run | None, why: str, code: str | None = None) -> Outcome:
        message = f"State update failed for {_NAMES[self.kind]} ID {item.update.run_id}{why}"
        return Outcome(item.update.run_id, "ERROR", message, run.version if run else None, code)

    def find_repeated(self, run: _Run, item: _Item) -> Outcome | None:
        """Return the acknowledgement of a message that was answered before, if this is one."""
        version = item.update.version
        if version is None:
            if run.state not in rules.FINISHED:
                return None
            version = run.version - 1
        known = self.recorded.get((run.id, version + 1))
        if known is None:
            return None
        state, text, client_id = known
        if item.head.type in rules.CLAIMS and (client_id is None or client_id != self.caller.client_id):
            return None  # a rival's claim may read the same: it is not ours
        if state == "Queued" and item.head.type == "Running":
            return Outcome(run.id, "QUEUED", self.slots.message, version + 1)
        if state != item.head.type or not rules.same_state(item.text, text):
            return None
        return Outcome(run.id, version=version + 1)

    # -- accepting -------------------------------------------------------------------------------------

    def accept(self, run: _Run, item: _Item) -> Outcome:
        head, text = item.head, item.text
        status: Any = "SUCCESS"
        message = None
        claim = head.type in rules.CLAIMS
        if self.flows[run.flow_key].limited:
            if head.type == "Running" and not self.slots.take(run.id):
                status, message = "QUEUED", self.slots.message
                head, text = self.queued(message)
            elif head.type not in rules.RUNNING:
                self.slots.release(run.id)
        if self.kind == "task_run":
            text = self.carry_inputs(run, head, text)
        self.record(run, head, text, self.caller.client_id if claim else None)
        if self.kind == "flow_run":
            if head.type == rules.CASCADE:
                self.cancelled.append(item)
            elif head.type == "Submitted":
                run.submitted = self.tx.now
                self.submitted.append(run.id)
        return Outcome(run.id, status, message, run.version)

    def queued(self, message: str) -> tuple[StateHead, str]:
        """Make the Queued state that is recorded in the place of a Running one."""
        start = self.tx.now + QUEUE_INTERVAL
        state = {
            "type": "Queued",
            "message": message,
            "context": {},
            "cached_inputs": {},
            "_result": no_result(),
            "start_time": start.isoformat(),
            "state": None,
            "__version__": VERSION,
        }
        return StateHead("Queued", message, start), document(state)

    def carry_inputs(self, run: _Run, head: StateHead, text: str) -> str:
        """Hand the cached inputs of the state before to a state that has none."""
        if head.cached_inputs:
            run.cached_inputs = document(head.cached_inputs)
        elif run.cached_inputs is not None:
            state = msgspec.json.decode(text)
            state["cached_inputs"] = msgspec.Raw(run.cached_inputs.encode())
            return document(state)
        return text

    def record(self, run: _Run, head: StateHead, text: str, client_id: str | None) -> None:
        tx, new = self.tx, head.type
        now = self.now
        if run.repeats:  # later states of one run in one batch sort after the earlier ones
            now = tx.database.moment(tx.now + datetime.timedelta(microseconds=run.repeats))
        run.repeats += 1
        run.version += 1
        run.state = new
        beat = new in rules.HEARTBEAT if self.kind == "flow_run" else new == "Running"
        extra = run.cached_inputs if self.kind == "task_run" else (now if new == "Submitted" else None)
        self.recorded[run.id, run.version] = (new, text, client_id)
        self.rows.append(
            (
                tx.new_id(),
                run.tenant_id,
                run.version,
                now,
                new,
                head.message,
                self.start_time(head) if new in rules.STARTED_LATER else None,
                text,
                client_id,
                now if new == "Running" else None,
                now if new in rules.ENDED else None,
                now if beat else None,
                extra,
                run.id,
            )
        )
        if tx.watched:
            flow_run_id = run.flow_key if self.kind == "task_run" else run.id
            tx.changes.append(
                StateChange(self.kind, run.id, flow_run_id, run.tenant_id, run.version, new, head.message, tx.now, text)
            )

    def start_time(self, head: StateHead) -> Any:
        """When a scheduled state begins: now if it does not say, never if it says null."""
        start = head.start_time
        if isinstance(start, msgspec.UnsetType):
            return None if head.type == "Paused" else self.now
        if start is None:
            return None
        return self.tx.database.moment(in_utc(start))

    # -- what follows from a state of a flow run -------------------------------------------------------

    def follow_up(self) -> None:
        tx = self.tx
        if self.submitted and is_id(self.caller.agent_id):
            agent = tables["agent"].c
            known = select(agent.id).where(agent.id == self.caller.agent_id).scalar_subquery()
            tx.update("flow_run", tables["flow_run"].c.id.in_(self.submitted), agent_id=known)
        for item in self.cancelled:
            self.cascade(item)

    def cascade(self, item: _Item) -> None:
        """Give the Cancelled state of a flow run to each of its task runs that has not finished."""
        tx = self.tx
        run = tables["task_run"].c
        unfinished = select(run.id).where(
            run.flow_run_id == item.update.run_id, run.state.not_in(sorted(rules.FINISHED)) | run.state.is_(None)
        )
        ids = tx.connection.execute(unfinished).scalars().all()
        _apply(tx, "task_run", [StateUpdate(run_id, item.update.state) for run_id in ids], ANYONE)
