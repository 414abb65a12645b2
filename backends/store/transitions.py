"""Recording states: the path that every transition takes.

A batch costs two reads (the runs, locked; their flows) and one write for all its items together. In between,
plain Python decides item by item, in the order they were sent, what becomes of each: what a state means is in
`engine.lifecycle`, places under a limit in `slots`. Nothing is written for an item that is refused, and its refusal
touches no other.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import bindparam, select, update

from ...engine import lifecycle
from ...engine.backend import LEASE_SECONDS, PROLONGED
from ...engine.cancellation import left_by
from ...engine.serialization import encode_state
from . import parts, rules
from .databases.base import StateRecord
from .idempotency import once
from .ids import is_id
from .records import (
    ANYONE,
    OWNERSHIP_LOST,
    UPSTREAM_REFUSED,
    VERSION_LOCKING_ERROR,
    Caller,
    Kind,
    Outcome,
    StateChange,
    StateUpdate,
)
from .rules import StateHead
from .slots import Held, Slots
from .tx import Tx, document, in_utc, tables

__all__ = [
    "end_task_runs",
    "no_result",
    "refused_in",
    "set_flow_run_states",
    "set_states",
    "set_task_run_states",
    "state_update",
]

VERSION = "1.4.1"
"""The version of the dialect that documents made here claim."""

SUBMIT_LOCK = datetime.timedelta(seconds=30)
"""For how long nobody else may submit a flow run that has been submitted."""

_CHUNK = 5000  # as many items share their statements at most: a statement takes a limited number of parameters

_CASCADE = "Cancelled"
"""The state of a flow run that its unfinished task runs take over."""

_NAMES = {"flow_run": "flow run", "task_run": "task run"}


class _Run(msgspec.Struct, gc=False):
    """One run while a batch is applied to it; it begins as a row of `Database.lock_runs`. Flow runs have owners."""

    id: str
    version: int
    state: str | None
    tenant_id: str
    extra: Any
    """Of a task run its cached inputs, of a flow run the time of its submission."""
    flow_key: str
    epoch: int = 0
    owner: str | None = None
    lease_expires: Any = None
    lease_seconds: float | None = None
    repeats: int = 0


class _Flow(msgspec.Struct):
    """What the rules need of the flow of a flow run, or the flow run of a task run: see `Database.lock_runs`."""

    key: str
    state: str | None
    locked: bool
    limited: bool
    epoch: int = 0
    owner: str | None = None
    lease_expires: Any = None
    lease_seconds: float | None = None


class _Item(msgspec.Struct, gc=False):
    """One update with its document read."""

    update: StateUpdate
    head: StateHead
    text: str


def no_result() -> dict[str, str]:
    """Return the document of the absence of a result."""
    return {"__version__": VERSION, "type": "NoResultType"}


def state_update(run_id: str, state: str, message: str, *, epoch: int | None = None, **fields: Any) -> StateUpdate:
    """Return an update to a state that the store makes itself, whatever the version of the run."""
    made = {
        "type": state,
        "message": message,
        "__version__": VERSION,
        "context": {},
        "cached_inputs": {},
        "_result": no_result(),
        **fields,
    }
    return StateUpdate(run_id, document(made).encode(), epoch=epoch)


def set_task_run_states(
    tx: Tx, updates: Sequence[StateUpdate], idempotency_key: str | None = None, *, refused: Iterable[str] = ()
) -> list[Outcome]:
    """Record states of task runs; as `set_states`."""
    return set_states(tx, "task_run", updates, idempotency_key, refused)


def set_flow_run_states(
    tx: Tx, updates: Sequence[StateUpdate], idempotency_key: str | None = None, *, refused: Iterable[str] = ()
) -> list[Outcome]:
    """Record states of flow runs; as `set_states`."""
    return set_states(tx, "flow_run", updates, idempotency_key, refused)


def set_states(
    tx: Tx,
    kind: Kind,
    updates: Sequence[StateUpdate],
    idempotency_key: str | None = None,
    refused: Iterable[str] = (),
) -> list[Outcome]:
    """Record states, each item for itself and all in one transaction.

    Args:
        - kind: whose states they are
        - updates: what to record; several for one run are applied in order
        - idempotency_key: names this batch; sent again under the same key it is answered as it was the first time
        - refused: the runs whose last update was refused before, in the same request; see `refused_in`

    Returns:
        - list[Outcome]: one for each update, in their order
    """
    if idempotency_key is None:
        return _apply(tx, kind, updates, tx.caller, refused)
    answered = once(tx, f"{kind}:{idempotency_key}", lambda tx: _apply(tx, kind, updates, tx.caller, refused))
    return msgspec.convert(answered, list[Outcome])


def refused_in(outcomes: Iterable[Outcome]) -> set[str]:
    """Return the runs whose last update was refused."""
    last = {outcome.id: outcome.status for outcome in outcomes}
    return {run_id for run_id, status in last.items() if status == "ERROR"}


def _apply(
    tx: Tx, kind: Kind, updates: Sequence[StateUpdate], caller: Caller, before: Iterable[str] = ()
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    refused = set(before)
    for start in range(0, len(updates), _CHUNK):
        outcomes += _Batch(tx, kind, caller, refused).apply(updates[start : start + _CHUNK])
    return outcomes


class _Batch:
    """A batch of updates of one kind, while it is applied."""

    def __init__(self, tx: Tx, kind: Kind, caller: Caller, refused: set[str]) -> None:
        self.tx = tx
        self.refused = refused
        """The runs whose last update was refused."""
        self.kind: Kind = kind
        self.caller = caller
        self.fenced = caller.client_id is not None
        self.now = tx.database.moment(tx.now)
        self.runs: dict[str, _Run] = {}
        self.flows: dict[str, _Flow] = {}
        self.recorded: dict[tuple[str, int], tuple[str, str, str | None]] = {}
        self.rows: list[StateRecord] = []
        self.inputs: dict[str, str] = {}
        self.cancelled: list[_Item] = []
        self.submitted: list[str] = []
        self.given_up: list[str] = []
        self.taken_away: list[str] = []
        self.heard_of: set[str] = set()
        """The flow runs in which something begins."""
        self.prolonged: dict[str, float] = {}
        self.slots = Slots(tx, kind, caller.queue_seconds)

    def apply(self, updates: Sequence[StateUpdate]) -> list[Outcome]:
        items: list[_Item | Outcome] = [self.read(item) for item in updates]
        readable = [item for item in items if isinstance(item, _Item)]
        if readable:
            self.load(readable)
        outcomes = [self.outcome_of(item) for item in items]
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
        runs, flows = tx.database.lock_runs(tx.connection, kind, ids)
        self.runs = {row[0]: _Run(*row) for row in runs if tenant_id is None or row[3] == tenant_id}
        if not self.runs:
            return
        self.flows = {row[0]: _Flow(*row) for row in flows}
        self.load_repeated(items)
        if any(flow.limited for flow in self.flows.values()):
            begins = {item.update.run_id for item in items if item.head.type in lifecycle.BEGINS[kind]}
            limited = [run.id for run in self.runs.values() if self.flows[run.flow_key].limited]
            self.slots.load(limited, [run_id for run_id in limited if run_id in begins])

    def load_repeated(self, items: Sequence[_Item]) -> None:
        """Read the states that a repeated message would have recorded."""
        keys: list[tuple[str, int]] = []
        for item in items:
            run = self.runs.get(item.update.run_id)
            if run is None or not (self.fenced or self.flows[run.flow_key].locked):
                continue
            version = item.update.version
            if version is None:
                if run.state == item.head.type and run.state in lifecycle.FINISHED:
                    keys.append((run.id, run.version))
            elif 0 <= version < run.version:
                keys.append((run.id, version + 1))
        if keys:
            for row in self.tx.database.recorded_states(self.tx.connection, self.kind, keys):
                self.recorded[row[0], row[1]] = (row[2], row[3], row[4])

    # -- deciding --------------------------------------------------------------------------------------

    def outcome_of(self, item: _Item | Outcome) -> Outcome:
        outcome = self.decide(item) if isinstance(item, _Item) else item
        if outcome.status == "ERROR":
            self.refused.add(outcome.id)
        elif self.refused:
            self.refused.discard(outcome.id)
        return outcome

    def decide(self, item: _Item) -> Outcome:
        run = self.runs.get(item.update.run_id)
        if run is None:
            return self.refuse(item, None, "")
        if self.refused and not self.refused.isdisjoint(item.update.rests_on):
            return self.refuse(item, run, ": a state that it rests on was refused.", UPSTREAM_REFUSED)
        flow = self.flows[run.flow_key]
        strict = self.fenced or flow.locked
        new, version = item.head.type, item.update.version
        owned = flow if self.kind == "task_run" else run
        if item.update.epoch not in (None, owned.epoch):
            # also if it reads like what is recorded: that is its successor's
            why = f": the flow run has another owner since: epoch {item.update.epoch} is not {owned.epoch}."
            return self.refuse(item, run, why, OWNERSHIP_LOST)
        # What says the version that its run has is no repetition: nothing has followed that version yet.
        if strict and version != run.version and (repeated := self.find_repeated(run, item)) is not None:
            return repeated
        begins = new in lifecycle.BEGINS[self.kind]
        if begins and owned.owner is not None:
            if item.update.epoch is not None:
                self.prolong(run.flow_key if self.kind == "task_run" else run.id, owned)
            elif self.is_living(owned):
                return self.refuse(item, run, ": the flow run has an owner that is alive.", VERSION_LOCKING_ERROR)
        if new == "Submitted" and self.is_submitted(run):
            message = "State update failed: this run has already been submitted."
            return Outcome(run.id, "ERROR", message, run.version)
        if strict and version is not None and version != run.version:
            return self.refuse(item, run, f": version {version} is not the current version.", VERSION_LOCKING_ERROR)
        if self.kind == "task_run" and (begins or new in lifecycle.RUNNING) and flow.state != "Running":
            why = f": provided a running state but associated flow run {run.flow_key} is not in a running state."
            return self.refuse(item, run, why)
        knows_the_end = item.update.epoch is not None and version is not None  # it is the owner's own
        if strict and not knows_the_end and not lifecycle.may_follow(run.state, new):
            return self.refuse(item, run, f": the run is finished ({run.state}).")
        return self.accept(run, flow, item)

    def prolong(self, flow_run_id: str, owned: _Run | _Flow) -> None:
        """Begin a lease anew of which little is left: what begins is a sign of life, too."""
        if flow_run_id in self.heard_of:
            return
        self.heard_of.add(flow_run_id)
        lease = owned.lease_seconds or LEASE_SECONDS
        left = _moment(owned.lease_expires) - self.tx.now  # roughly: the clock of leases may be another one
        if left < datetime.timedelta(seconds=lease * PROLONGED):
            self.prolonged[flow_run_id] = lease

    def is_living(self, owned: _Run | _Flow) -> bool:
        return bool(_moment(owned.lease_expires) > self.tx.lease_now)

    def is_submitted(self, run: _Run) -> bool:
        if self.kind == "task_run" or run.extra is None:
            return False
        return bool(_moment(run.extra) + SUBMIT_LOCK > self.tx.now)

    def refuse(self, item: _Item, run: _Run | None, why: str, code: str | None = None) -> Outcome:
        message = f"State update failed for {_NAMES[self.kind]} ID {item.update.run_id}{why}"
        standing = self.standing(run) if code == VERSION_LOCKING_ERROR and run is not None else None
        return Outcome(item.update.run_id, "ERROR", message, run.version if run else None, code, standing)

    def standing(self, run: _Run) -> str | None:
        """Return the document of the state that a flow run has, for who wanted it to have another one."""
        if self.kind == "task_run":
            return None
        known = self.recorded.get((run.id, run.version))
        if known is not None:
            return known[1]
        found = self.tx.database.recorded_states(self.tx.connection, self.kind, [(run.id, run.version)])
        return found[0][3] if found else None

    def find_repeated(self, run: _Run, item: _Item) -> Outcome | None:
        """Return the acknowledgement of a message that was answered before, if this is one."""
        version = item.update.version
        if version is None:
            if run.state not in lifecycle.FINISHED:
                return None
            version = run.version - 1
        known = self.recorded.get((run.id, version + 1))
        if known is None:
            return None
        state, text, client_id = known
        if item.head.type in lifecycle.CLAIMS and (client_id is None or client_id != self.caller.client_id):
            return None  # a rival's claim may read the same: it is not ours
        if state == "Queued" and item.head.type in lifecycle.BEGINS[self.kind]:
            return Outcome(run.id, "QUEUED", rules.read_head(text.encode())[0].message, version + 1, document=text)
        if state != item.head.type or not rules.same_state(item.text, text):
            return None
        if self.kind == "flow_run" and state == _CASCADE and item.update.version is None:
            self.cancelled.append(item)  # said again by a person: what has not finished since is meant
        return Outcome(run.id, version=version + 1, document=None if text == item.text else text)

    # -- accepting -------------------------------------------------------------------------------------

    def accept(self, run: _Run, flow: _Flow, item: _Item) -> Outcome:
        head, text = item.head, item.text
        status: Literal["SUCCESS", "QUEUED"] = "SUCCESS"
        message = None
        claim = self.caller.client_id if head.type in lifecycle.CLAIMS else None
        if flow.limited:
            if head.type in lifecycle.BEGINS[self.kind]:
                held = self.slots.take(run.id, run.state, text)
                if held is not None:
                    status, message = "QUEUED", held.message
                    head, text = self.queued(held)
            elif head.type not in lifecycle.RUNNING:
                self.slots.release(run.id)
                if run.state == "Queued":
                    self.slots.gives_up(run.id)
        if self.kind == "task_run":
            if head.cached_inputs or run.extra is not None:
                text = self.carry_inputs(run, head, text)
        elif head.type in lifecycle.FINISHED:
            is_vouched_for = item.update.epoch is not None and item.update.version is not None
            if lifecycle.ends_task_runs(head.type, is_claimed=run.epoch > 0, is_vouched_for=is_vouched_for):
                self.cancelled.append(item)
        elif head.type == "Submitted":
            run.extra = self.tx.now
            self.submitted.append(run.id)
        if self.kind == "flow_run" and run.owner is not None and run.version:  # one that is new was created for it
            self.change_owner(run, head.type, item.update.epoch)
        self.record(run, head, text, claim)
        return Outcome(run.id, status, message, run.version, document=None if text == item.text else text)

    def change_owner(self, run: _Run, new: str, epoch: int | None) -> None:
        """Let a flow run go with a state that its owner does not go on from, or to a client that claims nothing."""
        if new not in lifecycle.KEEPS_OWNER:
            self.given_up.append(run.id)
        elif new == "Running" and epoch is None:
            self.taken_away.append(run.id)
            run.epoch += 1
        else:
            return
        run.owner = None

    def queued(self, held: Held) -> tuple[StateHead, str]:
        """Make the Queued state that is recorded in the place of a Running one."""
        start = self.tx.now + datetime.timedelta(seconds=held.seconds)
        state = {
            "type": "Queued",
            "message": held.message,
            "context": {},
            "cached_inputs": {},
            "_result": no_result(),
            "start_time": start.isoformat(),
            "state": None,
            "__version__": VERSION,
        }
        return StateHead("Queued", held.message, start), document(state)

    def carry_inputs(self, run: _Run, head: StateHead, text: str) -> str:
        """Hand the cached inputs of the state before to a state that has none."""
        if head.cached_inputs:
            run.extra = self.inputs[run.id] = document(head.cached_inputs)
            return text
        state = msgspec.json.decode(text)
        state["cached_inputs"] = msgspec.Raw(run.extra.encode())
        return document(state)

    def record(self, run: _Run, head: StateHead, text: str, client_id: str | None) -> None:
        tx, new, now = self.tx, head.type, self.now
        if run.repeats:  # later states of one run in one batch sort after the earlier ones
            now = tx.database.moment(tx.now + datetime.timedelta(microseconds=run.repeats))
        run.repeats += 1
        run.version += 1
        run.state = new
        self.recorded[run.id, run.version] = (new, text, client_id)
        start = self.start_time(head) if new in lifecycle.WAITING else None
        self.rows.append(
            (tx.new_id(), run.tenant_id, run.id, run.version, now, new, head.message, start, text, client_id)
        )
        if self.kind == "flow_run":
            tx.moved[run.id] = None
        if self.kind in tx.watched:
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
        if self.inputs:
            run = tables["task_run"].c
            keep = (
                update(tables["task_run"]).where(run.id == bindparam("run")).values(cached_inputs=bindparam("inputs"))
            )
            inputs = [{"run": run_id, "inputs": text} for run_id, text in self.inputs.items()]
            tx.connection.execute(keep, inputs)
        if self.submitted:
            self.note_submission()
        for flow_run_id, lease in self.prolonged.items():
            expires = tx.lease_now + datetime.timedelta(seconds=lease)
            tx.update("flow_run", tables["flow_run"].c.id == flow_run_id, lease_expires=expires)
        nobody: dict[str, Any] = {"owner": None, "lease_expires": None}
        owned = tables["flow_run"].c
        if self.given_up:
            tx.update("flow_run", owned.id.in_(self.given_up), **nobody)
        if self.taken_away:
            tx.update("flow_run", owned.id.in_(self.taken_away), epoch=owned.epoch + 1, **nobody)
        for item in self.cancelled:
            end_task_runs(self.tx, item.update.run_id, _left_by(item))

    def note_submission(self) -> None:
        flow_run, agent = tables["flow_run"].c, tables["agent"].c
        values: dict[str, Any] = {"submitted": self.tx.now}
        if is_id(self.caller.agent_id):
            values["agent_id"] = select(agent.id).where(agent.id == self.caller.agent_id).scalar_subquery()
        self.tx.update("flow_run", flow_run.id.in_(self.submitted), **values)


def _left_by(item: _Item) -> bytes:
    """Return what a flow run that ends leaves to its unfinished task runs."""
    if item.head.type == _CASCADE:
        return item.update.state
    context = msgspec.json.decode(item.text).get("context")
    return encode_state(left_by(item.head.type, context.get("cause") if isinstance(context, dict) else None))


def _moment(value: Any) -> datetime.datetime:
    """Return a moment that a hot statement has read."""
    moment: datetime.datetime = datetime.datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment


def end_task_runs(tx: Tx, flow_run_id: str, state: bytes) -> None:
    """Give a state that ends a flow run to each of its task runs that has not finished, and to its parts."""
    for part_id in parts.parts_of(tx, flow_run_id):
        _apply(tx, "flow_run", [StateUpdate(part_id, state)], ANYONE)
        end_task_runs(tx, part_id, state)
    run = tables["task_run"].c
    unfinished = select(run.id).where(
        run.flow_run_id == flow_run_id, run.state.not_in(sorted(lifecycle.FINISHED)) | run.state.is_(None)
    )
    ids = tx.connection.execute(unfinished).scalars().all()
    _apply(tx, "task_run", [StateUpdate(run_id, state) for run_id in ids], ANYONE)
