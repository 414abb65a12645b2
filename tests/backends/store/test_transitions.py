"""Recording states: versions, fences, what follows from a state, one item apart from the other."""

from __future__ import annotations

import datetime
from itertools import product

import msgspec
import pytest

from flowloop.backends.store import ANYONE, Caller, StateChange, StateUpdate, Store
from flowloop.engine.errors import BackendRejected, VersionLockMismatch

from .world import FENCED, PREFECT, RIVAL, START, ManualClock, World, flow_document, state

LOCKING = "VERSION_LOCKING_ERROR"


# -- what is written -----------------------------------------------------------------------------------


async def test_a_state_is_copied_to_its_run(world: World) -> None:
    await world.build()
    await world.start()
    document = state("Running", "on it", context={"tags": []}, _result={"type": "NoResultType"})
    assert (await world.task_state("a", document, 1)).version == 2
    run = await world.task_run("a")
    assert bytes(run["serialized_state"]) == document
    assert (run["state"], run["version"], run["state_message"]) == ("Running", 2, "on it")
    assert run["state_timestamp"] == run["start_time"] == run["heartbeat"] == run["updated"] == START
    assert run["end_time"] is run["state_start_time"] is run["state_result"] is None
    rows = await world.rows("task_run_state", task_run_id=run["id"])
    assert [(row["version"], row["state"]) for row in rows] == [(1, "Pending"), (2, "Running")]
    assert bytes(rows[1]["serialized_state"]) == document
    assert rows[1]["created"] == rows[1]["timestamp"] == START
    assert rows[1]["tenant_id"] == run["tenant_id"]


async def test_a_document_is_stored_byte_for_byte(world: World) -> None:
    await world.build()
    await world.start()
    document = (
        '{ "type":\t"Success", "unknown": [1e400, 12345678901234567890, "é\\u0000"],\n "message": null }'.encode()
    )
    assert (await world.task_state("a", document)).status == "SUCCESS"
    assert bytes((await world.task_run("a"))["serialized_state"]) == document


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        ("Success", True),
        ("Failed", True),
        ("Cached", True),
        ("TimedOut", True),
        ("Looped", True),
        ("Cancelled", True),
        ("Mapped", False),
        ("Skipped", False),
        ("TriggerFailed", False),
        ("ValidationFailed", False),
        ("Finished", False),
        ("Paused", False),
    ],
)
async def test_which_states_set_the_end_time(world: World, kind: str, ends: bool) -> None:
    await world.build()
    await world.start()
    world.clock.move(seconds=5)
    await world.task_state("a", state(kind))
    assert (await world.task_run("a"))["end_time"] == (world.clock.now() if ends else None)


async def test_start_is_the_first_and_end_the_last(world: World) -> None:
    await world.build()
    await world.start()
    for version, kind in enumerate(["Running", "Failed", "Retrying", "Running", "Success"], start=1):
        world.clock.move(seconds=1)
        assert (await world.task_state("a", state(kind), version)).status == "SUCCESS"
    run = await world.task_run("a")
    assert run["start_time"] == START + datetime.timedelta(seconds=1)
    assert run["end_time"] == START + datetime.timedelta(seconds=5)


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("Retrying", {"start_time": "2030-01-01T02:00:00+02:00"}, datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)),
        ("Scheduled", {"start_time": "2030-01-01T00:00:00"}, datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)),
        ("Scheduled", {}, START),
        ("Scheduled", {"start_time": None}, None),
        ("Paused", {}, None),
        ("Queued", {"start_time": "2030-01-01T00:00:00Z"}, datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)),
        ("Success", {"start_time": "2030-01-01T00:00:00Z"}, None),
    ],
)
async def test_the_start_time_of_a_state(
    world: World, kind: str, fields: dict[str, str], expected: datetime.datetime | None
) -> None:
    await world.build()
    await world.start()
    await world.task_state("a", state(kind, **fields))
    assert (await world.task_run("a"))["state_start_time"] == expected


async def test_signs_of_life(world: World) -> None:
    await world.build()
    beats: list[datetime.datetime | None] = []
    for version, kind in enumerate(["Submitted", "Running", "Cancelling", "Cancelled"], start=1):
        world.clock.move(minutes=1)
        await world.flow_state(state(kind), version)
        beats.append((await world.flow_run())["heartbeat"])
    minutes = [START + datetime.timedelta(minutes=n) for n in (1, 2, 3)]
    assert beats == [*minutes, minutes[-1]]


async def test_states_of_one_run_in_one_batch_are_applied_in_order(world: World) -> None:
    await world.build()
    await world.start()
    run_id, other = world.task_runs["a"], world.task_runs["b"]
    outcomes = await world.store.set_task_run_states(
        FENCED,
        [
            StateUpdate(run_id, state("Running"), 1),
            StateUpdate(other, state("Running"), 1),
            StateUpdate(run_id, state("Failed"), 2),
            StateUpdate(run_id, state("Retrying", start_time=None, run_count=2), 3),
            StateUpdate(run_id, state("Running"), 4),
            StateUpdate(run_id, state("Success"), 5),
        ],
    )
    assert [outcome.version for outcome in outcomes] == [2, 2, 3, 4, 5, 6]
    assert await world.history("a") == ["Pending", "Running", "Failed", "Retrying", "Running", "Success"]
    rows = sorted(await world.rows("task_run_state", task_run_id=run_id), key=lambda row: row["version"])
    times = [row["timestamp"] for row in rows]
    assert times[1:] == sorted(set(times[1:])), "later states sort after earlier ones"
    run = await world.task_run("a")
    assert (run["version"], run["state"]) == (6, "Success")
    assert run["start_time"] == times[1]
    assert run["end_time"] == times[-1]


# -- versions ------------------------------------------------------------------------------------------

UNLOCKED_ANYTHING_GOES = [
    # (sent version, state) after Success at version 3, as a client that nobody fences sends them
    (None, "Failed"),
    (1, "Running"),
    (99, "Running"),
    (None, "Success"),
    (None, "Pending"),
    (None, "Cancelled"),
    (None, "Finished"),
]


async def test_without_a_lock_any_state_may_follow_any(world: World) -> None:
    await world.build(caller=PREFECT)
    await world.start(PREFECT)
    for sent in (1, None):
        await world.task_state("a", state("Running" if sent else "Success"), sent, PREFECT)
    for expected, (version, kind) in enumerate(UNLOCKED_ANYTHING_GOES, start=4):
        outcome = await world.task_state("a", state(kind), version, PREFECT)
        assert (outcome.status, outcome.version) == ("SUCCESS", expected)


@pytest.mark.parametrize("version", [0, 1, 3, -1, 2**40])
async def test_a_stale_version_is_refused_and_nothing_written(world: World, version: int) -> None:
    await world.build()
    await world.start()
    await world.task_state("a", state("Running"), 1)
    outcome = await world.task_state("a", state("Failed"), version, RIVAL)
    assert (outcome.status, outcome.code, outcome.version) == ("ERROR", LOCKING, 2)
    assert outcome.message == (
        f"State update failed for task run ID {world.task_runs['a']}: version {version} is not the current version."
    )
    assert isinstance(outcome.error, VersionLockMismatch)
    assert await world.history("a") == ["Pending", "Running"]


async def test_a_stale_version_of_a_flow_run_is_refused(world: World) -> None:
    await world.build()
    await world.start()
    outcome = await world.flow_state(state("Failed"), 1, RIVAL)
    assert outcome.message == (
        f"State update failed for flow run ID {world.run_id}: version 1 is not the current version."
    )
    assert outcome.code == LOCKING


async def test_a_repeated_message_is_acknowledged_again(world: World) -> None:
    await world.build()
    await world.start()
    for version, kind in enumerate(["Running", "Success"], start=1):
        assert (await world.task_state("a", state(kind), version)).version == version + 1
    for version, kind in enumerate(["Running", "Success"], start=1):
        outcome = await world.task_state("a", state(kind), version)
        assert (outcome.status, outcome.version) == ("SUCCESS", version + 1)
    assert await world.history("a") == ["Pending", "Running", "Success"]


async def test_another_state_for_a_version_that_is_taken_is_refused(world: World) -> None:
    await world.build()
    await world.start()
    await world.task_state("a", state("Running"), 1)
    await world.task_state("a", state("Success", "mine"), 2)
    assert (await world.task_state("a", state("Success", "yours"), 2)).code == LOCKING
    assert (await world.task_state("a", state("Failed"), 2)).code == LOCKING


@pytest.mark.parametrize("kind", ["flow_run", "task_run"])
async def test_of_two_clients_that_claim_a_run_with_the_same_document_one_has_it(world: World, kind: str) -> None:
    await world.build()
    claim = state("Running", "Running flow.")
    if kind == "flow_run":
        answers = [await world.flow_state(claim, 1, caller) for caller in (FENCED, RIVAL, PREFECT, FENCED)]
    else:
        await world.start()
        answers = [await world.task_state("a", claim, 1, caller) for caller in (FENCED, RIVAL, PREFECT, FENCED)]
    assert [(answer.status, answer.code) for answer in answers] == [
        ("SUCCESS", None),
        ("ERROR", LOCKING),
        ("ERROR", LOCKING),
        ("SUCCESS", None),
    ]


async def test_a_fenced_client_is_held_to_its_versions_without_a_lock(world: World) -> None:
    await world.build(caller=PREFECT)
    await world.start(PREFECT)
    assert (await world.task_state("a", state("Running"), 7, FENCED)).code == LOCKING
    assert (await world.task_state("a", state("Running"), 1, FENCED)).version == 2
    assert (await world.task_state("a", state("Running"), 7, PREFECT)).version == 3


async def test_the_lock_is_a_switch_of_the_flow_group(world: World) -> None:
    await world.build(caller=PREFECT)
    await world.start(PREFECT)
    await world.store.enable_flow_version_lock(ANYONE, flow_id=world.flow_id)
    assert (await world.task_state("a", state("Running"), 0, PREFECT)).code == LOCKING
    await world.store.disable_flow_version_lock(ANYONE, flow_id=world.flow_id)
    assert (await world.task_state("a", state("Running"), 0, PREFECT)).status == "SUCCESS"


LEGAL_WITHOUT_A_VERSION = [
    ("Failed", "Retrying"),
    ("TimedOut", "Retrying"),
    ("Success", "Cached"),
    ("Looped", "Running"),
    ("Looped", "Failed"),
    ("Failed", "Pending"),
    ("Success", "Pending"),
    ("Cancelled", "Scheduled"),
]
FINAL_WITHOUT_A_VERSION = [
    ("Success", "Failed"),
    ("Success", "Retrying"),
    ("Success", "Running"),
    ("Failed", "Success"),
    ("Failed", "Cached"),
    ("Cancelled", "Success"),
    ("Cancelled", "Retrying"),
    ("Cached", "Cached"),
    ("Skipped", "Failed"),
]


@pytest.mark.parametrize(("first", "second"), LEGAL_WITHOUT_A_VERSION)
async def test_what_a_prefect_client_legitimately_does_stays_legal(world: World, first: str, second: str) -> None:
    await world.build()  # version locked
    await world.start()
    await world.task_state("a", state(first), None, PREFECT)
    outcome = await world.task_state("a", state(second, "then"), None, PREFECT)
    assert (outcome.status, outcome.version) == ("SUCCESS", 3)


@pytest.mark.parametrize(("first", "second"), FINAL_WITHOUT_A_VERSION)
async def test_the_rest_of_a_finished_run_is_final(world: World, first: str, second: str) -> None:
    await world.build()
    await world.start()
    await world.task_state("a", state(first), None, PREFECT)
    outcome = await world.task_state("a", state(second, "then"), None, PREFECT)
    assert outcome.status == "ERROR"
    assert outcome.message is not None
    assert f"the run is finished ({first})" in outcome.message
    assert not isinstance(outcome.error, VersionLockMismatch)
    assert await world.history("a") == ["Pending", first]


async def test_a_finished_state_sent_again_without_a_version_is_acknowledged(world: World) -> None:
    await world.build()
    await world.start()
    first = await world.task_state("a", state("Success"), None, PREFECT)
    again = await world.task_state("a", state("Success"), None, PREFECT)
    assert again == first
    assert await world.history("a") == ["Pending", "Success"]


# -- one item apart from the other ---------------------------------------------------------------------


async def test_a_bad_item_fails_alone(world: World) -> None:
    await world.build(flow_document("a", "b", "c"))
    await world.start()
    ids = world.task_runs
    outcomes = await world.store.set_task_run_states(
        FENCED,
        [
            StateUpdate(ids["a"], state("Running"), 1),
            StateUpdate("00000000-0000-4000-8000-000000000000", state("Running"), 1),
            StateUpdate("no id at all", state("Running"), 1),
            StateUpdate(ids["b"], state("Running"), 9),
            StateUpdate(ids["b"], b'{"type":"Nonsense"}', 1),
            StateUpdate(ids["b"], b"x" * 1_000_001, 1),
            StateUpdate(ids["c"], state("Running", "with \x00 in it"), 1),
        ],
    )
    assert [outcome.status for outcome in outcomes] == ["SUCCESS", *["ERROR"] * 5, "SUCCESS"]
    assert outcomes[1].message == "State update failed for task run ID 00000000-0000-4000-8000-000000000000"
    assert outcomes[2].message == "State update failed for task run ID no id at all"
    assert outcomes[3].code == LOCKING
    assert "Nonsense" in str(outcomes[4].message)
    assert outcomes[5].message == "State payload is too large."
    assert [await world.history(slug) for slug in "abc"] == [
        ["Pending", "Running"],
        ["Pending"],
        ["Pending", "Running"],
    ]


async def test_an_empty_batch(world: World) -> None:
    assert await world.store.set_task_run_states(FENCED, []) == []


async def test_the_unknown_flow_run(world: World) -> None:
    outcome = (await world.store.set_flow_run_states(FENCED, [StateUpdate("nope", state("Running"), 1)]))[0]
    assert outcome.message == "State update failed for flow run ID nope"


async def test_another_tenant_does_not_exist(world: World) -> None:
    await world.build()
    other = (await world.store.create_tenant(ANYONE, name="Other", slug="other"))["id"]
    stranger = Caller(tenant_id=other)
    assert (await world.flow_state(state("Running"), 1, stranger)).message == (
        f"State update failed for flow run ID {world.run_id}"
    )
    own = Caller(tenant_id=(await world.flow_run())["tenant_id"])
    assert (await world.flow_state(state("Running"), 1, own)).status == "SUCCESS"


# -- batches that are sent again -----------------------------------------------------------------------


async def test_a_batch_is_applied_once_under_its_idempotency_key(world: World) -> None:
    await world.build(caller=PREFECT)
    await world.start(PREFECT)
    batch = [StateUpdate(world.task_runs["a"], state("Running")), StateUpdate("nope", state("Running"))]
    first = await world.store.set_task_run_states(PREFECT, batch, idempotency_key="k1")
    again = await world.store.set_task_run_states(PREFECT, batch, idempotency_key="k1")
    assert again == first
    assert [outcome.status for outcome in first] == ["SUCCESS", "ERROR"]
    assert await world.history("a") == ["Pending", "Running"]
    await world.store.set_task_run_states(PREFECT, batch, idempotency_key="k2")
    assert await world.history("a") == ["Pending", "Running", "Running"]


async def test_idempotency_keys_of_tenants_and_kinds_are_apart(world: World) -> None:
    await world.build(caller=PREFECT)
    own = Caller(tenant_id=(await world.flow_run())["tenant_id"])
    other = Caller(tenant_id=(await world.store.create_tenant(ANYONE, name="Other", slug="other"))["id"])
    batch = [StateUpdate(world.run_id, state("Running"))]
    assert (await world.store.set_flow_run_states(other, batch, idempotency_key="k"))[0].status == "ERROR"
    assert (await world.store.set_task_run_states(own, batch, idempotency_key="k"))[0].status == "ERROR"
    assert (await world.store.set_flow_run_states(own, batch, idempotency_key="k"))[0].status == "SUCCESS"


# -- what the flow run says ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flow_state", "kind"),
    list(product(["Scheduled", "Submitted", "Cancelling", "Success"], ["Running", "Cancelling"])),
)
async def test_a_task_run_runs_only_while_its_flow_run_does(world: World, flow_state: str, kind: str) -> None:
    await world.build(caller=PREFECT)
    await world.flow_state(state(flow_state), None, PREFECT)
    outcome = await world.task_state("a", state(kind), 1, PREFECT)
    assert outcome.message == (
        f"State update failed for task run ID {world.task_runs['a']}: provided a running state but associated flow run "
        f"{world.run_id} is not in a running state."
    )
    assert (await world.task_state("a", state("Success"), None, PREFECT)).status == "SUCCESS"


async def test_cancelled_falls_on_every_task_run_that_has_not_finished(world: World) -> None:
    await world.build(flow_document("success", "failed", "running", "looped", "pending", "retrying", "mapped"))
    await world.start()
    for slug in world.task_runs:
        if slug != "pending":
            kind = slug.capitalize()
            await world.task_state(slug, state(kind), 1)
    children = await world.store.get_or_create_task_runs(
        FENCED, flow_run_id=world.run_id, task_id=world.tasks["mapped"], map_indices=[0, 1]
    )
    document = state("Cancelled", "enough")
    assert (await world.flow_state(document, 2)).status == "SUCCESS"
    after = {slug: (await world.task_run(slug))["state"] for slug in world.task_runs}
    assert after == {
        "success": "Success",
        "failed": "Failed",
        "running": "Cancelled",
        "looped": "Cancelled",
        "pending": "Cancelled",
        "retrying": "Cancelled",
        "mapped": "Mapped",
    }
    assert bytes((await world.task_run("pending"))["serialized_state"]) == document
    assert [(await world.row("task_run", child["id"]))["state"] for child in children] == ["Cancelled"] * 2
    straggler = await world.task_state("running", state("Success"), 2)
    assert straggler.code == LOCKING


async def test_a_submitted_flow_run_is_locked_for_half_a_minute(world: World) -> None:
    await world.build(caller=PREFECT)
    assert (await world.flow_state(state("Submitted"), 1, PREFECT)).status == "SUCCESS"
    world.clock.move(seconds=29)
    refused = await world.flow_state(state("Submitted"), 1, PREFECT)
    assert refused.message == "State update failed: this run has already been submitted."
    assert (await world.flow_state(state("Running"), 2, PREFECT)).status == "SUCCESS"
    world.clock.move(seconds=1)
    assert (await world.flow_state(state("Submitted"), 1, PREFECT)).status == "SUCCESS"


async def test_the_agent_that_submits_a_flow_run_is_noted(world: World) -> None:
    await world.build(caller=PREFECT)
    agent_id = (await world.store.register_agent(PREFECT, type="LocalAgent"))["id"]
    await world.flow_state(state("Submitted"), 1, Caller(agent_id=agent_id))
    assert (await world.flow_run())["agent_id"] == agent_id


@pytest.mark.parametrize("agent_id", ["nonsense", "00000000-0000-4000-8000-000000000000"])
async def test_an_agent_that_does_not_exist_is_not_noted(world: World, agent_id: str) -> None:
    await world.build(caller=PREFECT)
    outcome = await world.flow_state(state("Submitted"), 1, Caller(agent_id=agent_id))
    assert outcome.status == "SUCCESS"
    assert (await world.flow_run())["agent_id"] is None


# -- cached inputs -------------------------------------------------------------------------------------


async def test_a_state_without_cached_inputs_takes_over_those_before(world: World) -> None:
    await world.build()
    await world.start()
    inputs = {"x": {"type": "PrefectResult", "location": "1"}}
    await world.task_state("a", state("Paused", cached_inputs=inputs), 1)
    await world.task_state("a", state("Running", cached_inputs={}), 2)
    await world.task_state("a", state("Success"), 3)
    for row in (await world.rows("task_run_state", task_run_id=world.task_runs["a"]))[1:]:
        assert msgspec.json.decode(row["serialized_state"])["cached_inputs"] == inputs
    repeated = await world.task_state("a", state("Success"), 3)
    assert (repeated.status, repeated.version) == ("SUCCESS", 4)
    await world.task_state("a", state("Pending", cached_inputs={"y": {"type": "NoResultType"}}), 4)
    document = msgspec.json.decode((await world.task_run("a"))["serialized_state"])
    assert document["cached_inputs"] == {"y": {"type": "NoResultType"}}


# -- watching ------------------------------------------------------------------------------------------


async def test_watchers_are_told_what_was_committed(world: World) -> None:
    await world.build()
    told: list[StateChange] = []
    stop = world.store.watch(told.extend)
    await world.start()
    await world.task_state("a", state("Running", "go"), 1)
    await world.task_state("a", state("Failed"), 7)
    await world.store.cancel_flow_run(ANYONE, flow_run_id=world.run_id)
    stop()
    await world.flow_state(state("Cancelled"), 3)
    assert [(change.kind, change.run_id, change.version, change.state) for change in told] == [
        ("flow_run", world.run_id, 2, "Running"),
        ("task_run", world.task_runs["a"], 2, "Running"),
        ("flow_run", world.run_id, 3, "Cancelling"),
    ]
    assert {change.flow_run_id for change in told} == {world.run_id}
    assert (told[1].message, told[1].timestamp, told[1].serialized_state) == (
        "go",
        START,
        state("Running", "go").decode(),
    )


async def test_nothing_is_told_of_what_was_rolled_back(world: World) -> None:
    from flowloop.backends.store.transitions import set_flow_run_states
    from flowloop.backends.store.tx import Tx

    await world.build()
    told: list[StateChange] = []
    world.store.watch(told.extend)

    def fail_late(tx: Tx) -> None:
        set_flow_run_states(tx, [StateUpdate(world.run_id, state("Running"), 1)])
        raise BackendRejected("too late")

    with pytest.raises(BackendRejected, match="too late"):
        await world.store.write(FENCED, fail_late)
    assert told == []
    assert (await world.flow_run())["state"] == "Scheduled"


async def test_ordinary_transitions_are_updates_in_place(postgres_url: str) -> None:
    """On PostgreSQL: an index that holds what a transition changes would be written at every transition."""
    async with Store(postgres_url, clock=ManualClock()) as store:
        await store.default_tenant(ANYONE)
        world = await World(store, store.clock).build()  # type: ignore[arg-type]
        await world.start()
        children = await store.get_or_create_task_runs(
            FENCED, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=range(200)
        )
        for version, kind in enumerate(("Running", "Success"), 1):
            outcomes = await store.set_task_run_states(
                FENCED, [StateUpdate(row["id"], state(kind), version) for row in children]
            )
            assert {outcome.status for outcome in outcomes} == {"SUCCESS"}
        async with store.engine.connect() as connection:
            await connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        async with store.engine.connect() as connection:
            counted = await connection.exec_driver_sql(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'task_run'"
            )
            updated, in_place = counted.one()
        assert updated == 400
        assert in_place == updated


# -- what a cancelled flow run takes with it -----------------------------------------------------------


@pytest.mark.parametrize("end", ["Success", "Failed", "Cancelled"])
@pytest.mark.parametrize("caller", [PREFECT, FENCED], ids=["plain", "locked"])
async def test_cancelled_over_a_finished_run_ends_what_has_not_finished(world: World, caller: Caller, end: str) -> None:
    await world.build(caller=caller)
    await world.start(caller)
    await world.flow_state(state(end), 2, caller)
    await world.task_state("a", state("Pending"), None, PREFECT)
    outcome = await world.flow_state(state("Cancelled"), None, PREFECT)
    recorded = outcome.status == "SUCCESS"
    assert recorded == (caller is PREFECT or end == "Cancelled"), "a locked run that ended otherwise is final"
    assert (await world.task_run("a"))["state"] == ("Cancelled" if recorded else "Pending")


async def test_cancelling_a_flow_run_leaves_the_task_runs_of_others(world: World) -> None:
    await world.build()
    other, theirs = world.run_id, dict(world.task_runs)
    await world.new_run()
    await world.flow_state(state("Cancelled"))
    assert {(await world.row("task_run", run_id))["state"] for run_id in world.task_runs.values()} == {"Cancelled"}
    assert {(await world.row("task_run", run_id))["state"] for run_id in theirs.values()} == {"Pending"}
    assert (await world.row("flow_run", other))["state"] == "Scheduled"


async def test_of_two_submissions_in_one_batch_the_second_is_refused(world: World) -> None:
    await world.build()
    updates = [StateUpdate(world.run_id, state("Submitted", message), None) for message in ("one", "two")]
    first, second = await world.store.set_flow_run_states(PREFECT, updates)
    assert (first.status, second.status) == ("SUCCESS", "ERROR")
    assert "already been submitted" in (second.message or "")


# -- what rests on another state -----------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [5000, 1])
async def test_what_rests_on_a_refused_state_is_refused_with_it_until_that_is_sent_again(
    world: World, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowloop.backends.store.transitions._CHUNK", chunk)
    await world.build(flow_document("a", "b", "c"))
    await world.start()
    a, b, c = (world.task_runs[slug] for slug in "abc")
    outcomes = await world.store.set_task_run_states(
        FENCED,
        [
            StateUpdate(a, state("Running"), 9),
            StateUpdate(b, state("Running"), 1, rests_on=(c, a)),
            StateUpdate(b, state("Running"), 1, rests_on=(c,)),
            StateUpdate(c, state("Running"), 1, rests_on=(b,)),
            StateUpdate(a, state("Running"), 1),
            StateUpdate(b, state("Success"), 2, rests_on=(a,)),
        ],
    )
    assert [outcome.code for outcome in outcomes] == [LOCKING, "UPSTREAM_REFUSED", None, None, None, None]
    assert outcomes[1].message == f"State update failed for task run ID {b}: a state that it rests on was refused."
    assert [await world.history(slug) for slug in "abc"] == [
        ["Pending", "Running"],
        ["Pending", "Running", "Success"],
        ["Pending", "Running"],
    ]


async def test_what_rests_on_a_flow_runs_state_is_refused_with_that(world: World) -> None:
    await world.build()
    outcomes = await world.store.set_flow_run_states(
        FENCED,
        [
            StateUpdate(world.run_id, state("Running"), 9),
            StateUpdate(world.run_id, state("Running"), 1, rests_on=(world.run_id,)),
        ],
    )
    assert [outcome.code for outcome in outcomes] == [LOCKING, "UPSTREAM_REFUSED"]


# -- whose the flow run is -----------------------------------------------------------------------------


async def owned(world: World, lease: float = 60) -> None:
    """Build a flow run that is Running and somebody's."""
    await world.build()
    await world.store.claim_flow_run(FENCED, flow_run_id=world.run_id, owner="one", lease_seconds=lease)
    assert (await world.flow_state(state("Running", "the owner's"), 1, epoch=1)).status == "SUCCESS"


@pytest.mark.parametrize("epoch", [0, 2])
async def test_a_write_of_another_epoch_is_refused_also_if_it_reads_like_what_is_recorded(
    world: World, epoch: int
) -> None:
    await owned(world)
    await world.task_state("a", state("Running"), 1, epoch=1)
    for outcome, name in (
        (await world.flow_state(state("Running", "the owner's"), 1, epoch=epoch), f"flow run ID {world.run_id}"),
        (await world.task_state("a", state("Running"), 1, epoch=epoch), f"task run ID {world.task_runs['a']}"),
    ):
        assert (outcome.code, outcome.document) == ("OWNERSHIP_LOST", None)
        assert outcome.message == (
            f"State update failed for {name}: the flow run has another owner since: epoch {epoch} is not 1."
        )


async def test_a_running_of_nobody_is_refused_while_the_owner_lives_and_told_what_stands(world: World) -> None:
    await owned(world)
    refused = await world.flow_state(state("Running", "a foreign client's"), 2, PREFECT)
    assert (refused.code, refused.version) == (LOCKING, 2)
    assert "the flow run has an owner that is alive" in str(refused.message)
    assert msgspec.json.decode(refused.document or "")["message"] == "the owner's"
    refused = await world.task_state("a", state("Running"), 1, PREFECT)
    assert (refused.code, refused.document) == (LOCKING, None)
    assert (await world.task_state("a", state("Failed"), 1, PREFECT)).status == "SUCCESS", "nothing begins with it"


async def test_from_the_moment_the_lease_ends_a_running_of_nobody_takes_the_flow_run_away(world: World) -> None:
    await owned(world)
    world.clock.move(seconds=59)
    assert (await world.flow_state(state("Running"), 2, PREFECT)).code == LOCKING
    world.clock.move(seconds=1)
    assert (await world.flow_state(state("Running"), 2, PREFECT)).status == "SUCCESS"
    run = await world.flow_run()
    assert (run["owner"], run["lease_expires"], run["epoch"]) == (None, None, 2)
    assert (await world.task_state("a", state("Running"), 1, epoch=1)).code == "OWNERSHIP_LOST"


async def test_in_one_batch_nobody_is_the_owner_after_it_was_taken_away(world: World) -> None:
    await owned(world)
    world.clock.move(seconds=60)
    outcomes = await world.store.set_flow_run_states(
        PREFECT, [StateUpdate(world.run_id, state("Running")), StateUpdate(world.run_id, state("Running"), epoch=1)]
    )
    assert [outcome.code for outcome in outcomes] == [None, "OWNERSHIP_LOST"]


@pytest.mark.parametrize(
    ("kind", "keeps"),
    [("Running", True), ("Cancelling", True), ("Queued", True), ("Scheduled", False), ("Paused", False),
     ("Success", False), ("Failed", False), ("Cancelled", False)],
)  # fmt: skip
async def test_a_state_that_its_owner_does_not_go_on_from_makes_a_flow_run_nobodys(
    world: World, kind: str, keeps: bool
) -> None:
    await owned(world)
    other = world.run_id
    await world.new_run()
    await world.store.claim_flow_run(FENCED, flow_run_id=world.run_id, owner="two", lease_seconds=60)
    assert (await world.flow_state(state(kind, "next"), 1, epoch=1)).status == "SUCCESS"
    run = await world.flow_run()
    assert (run["owner"], run["lease_expires"] is not None, run["epoch"]) == ("two" if keeps else None, keeps, 1)
    assert (await world.row("flow_run", other))["owner"] == "one"


@pytest.mark.parametrize("kind", ["Failed", "TimedOut", "Success"])
async def test_what_an_owner_leaves_when_its_flow_run_fails_is_cancelled(world: World, kind: str) -> None:
    await owned(world)
    assert (await world.flow_state(state(kind), 2, epoch=1)).status == "SUCCESS"
    left = await world.task_run("a")
    assert left["state"] == ("Pending" if kind == "Success" else "Cancelled")


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"cause": "sibling"}, "Cancelled: another task of the flow run failed."),
        ({"cause": "timeout"}, "Cancelled: the flow run took too long."),
        ({}, "The flow run ended as Failed before this task run did."),
        (None, "The flow run ended as Failed before this task run did."),
    ],
)
async def test_what_is_left_says_why_it_was_cancelled(
    world: World, context: dict[str, str] | None, message: str
) -> None:
    await owned(world)
    await world.flow_state(state("Failed", context=context), 2, epoch=1)
    assert (await world.task_run("a"))["state_message"] == message


async def test_an_owner_may_end_again_what_it_has_ended_and_nobody_else(world: World) -> None:
    await owned(world)
    await world.task_state("a", state("Running"), 1, epoch=1)
    await world.task_state("a", state("Success"), 2, epoch=1)
    for epoch, version in ((None, 3), (1, None)):
        refused = await world.task_state("a", state("Failed"), version, epoch=epoch)
        assert refused.message == (
            f"State update failed for task run ID {world.task_runs['a']}: the run is finished (Success)."
        )
    assert (await world.task_state("a", state("Failed", "on second thoughts"), 3, epoch=1)).status == "SUCCESS"


async def test_a_cancel_that_is_said_again_by_a_person_is_meant_for_what_has_begun_since(world: World) -> None:
    await world.build()
    await world.start()
    cancelled = state("Cancelled", "enough")
    await world.flow_state(cancelled, 2)
    for version, after in ((2, "Pending"), (None, "Cancelled")):
        await world.task_state("a", state("Pending"))
        assert (await world.flow_state(cancelled, version)).status == "SUCCESS"
        assert (await world.task_run("a"))["state"] == after


async def test_one_sign_of_life_a_batch_is_enough_and_it_is_for_its_own_flow_run(world: World) -> None:
    await owned(world, lease=100)
    other = world.run_id
    await world.new_run()
    await world.store.claim_flow_run(FENCED, flow_run_id=world.run_id, owner="two", lease_seconds=100)
    await world.flow_state(state("Running"), 1, epoch=1)
    world.clock.move(seconds=90)
    updates = [StateUpdate(world.task_runs[slug], state("Running"), 1, 1) for slug in "ab"]
    await world.store.set_task_run_states(FENCED, updates)
    expires = [(await world.row("flow_run", run_id))["lease_expires"] for run_id in (world.run_id, other)]
    assert expires == [START + datetime.timedelta(seconds=190), START + datetime.timedelta(seconds=100)]


async def test_an_end_is_no_sign_of_life(world: World) -> None:
    await owned(world, lease=100)
    await world.task_state("a", state("Running"), 1, epoch=1)
    world.clock.move(seconds=90)
    await world.task_state("a", state("Success"), 2, epoch=1)
    assert (await world.flow_run())["lease_expires"] == START + datetime.timedelta(seconds=100)


# -- repetitions ---------------------------------------------------------------------------------------


async def test_a_repetition_is_answered_with_what_was_recorded_of_it(world: World) -> None:
    await world.build()
    await world.start()
    await world.task_state("a", state("Paused", cached_inputs={"x": {"type": "PrefectResult", "location": "1"}}), 1)
    first = await world.task_state("a", state("Success"), 2)
    again = await world.task_state("a", state("Success"), 2)
    assert (again.status, again.version) == ("SUCCESS", 3)
    assert again.document == first.document
    assert '"location":"1"' in str(again.document).replace(" ", "")
    plain = await world.task_state("b", state("Success"), 1)
    assert (plain.document, (await world.task_state("b", state("Success"), 1)).document) == (None, None)


async def test_what_repeats_a_state_in_the_same_batch_is_no_second_one(world: World) -> None:
    await world.build()
    await world.start()
    updates = [StateUpdate(world.task_runs["a"], state("Running"), 1)] * 2
    outcomes = await world.store.set_task_run_states(FENCED, updates)
    assert [(outcome.status, outcome.version) for outcome in outcomes] == [("SUCCESS", 2)] * 2
    assert await world.history("a") == ["Pending", "Running"]


@pytest.mark.parametrize("version", [-1, 0, 1])
async def test_what_differs_from_the_recorded_state_is_no_repetition(world: World, version: int) -> None:
    await world.build()
    await world.start()
    await world.task_state("a", state("Running"), 1)
    assert (await world.task_state("a", state("Success", "not that"), version)).code == LOCKING


@pytest.mark.parametrize(("built_by", "sent_by"), [(PREFECT, FENCED), (FENCED, PREFECT)], ids=["fenced", "locked"])
async def test_a_repetition_is_known_by_the_lock_of_the_flow_or_the_fence_of_the_client(
    world: World, built_by: Caller, sent_by: Caller
) -> None:
    await world.build(caller=built_by)
    await world.start(built_by)
    for _ in range(2):
        outcome = await world.task_state("a", state("Success"), 1, sent_by)
        assert (outcome.status, outcome.version) == ("SUCCESS", 2)
    assert await world.history("a") == ["Pending", "Success"]


async def test_a_tenant_moves_its_own(world: World) -> None:
    await world.build()
    own = Caller(client_id="client-1", tenant_id=(await world.flow_run())["tenant_id"])
    await world.start(own)
    assert (await world.task_state("a", state("Running"), 1, own)).status == "SUCCESS"


@pytest.mark.parametrize("end", ["Cancelled", "Failed"])
async def test_the_parts_of_a_flow_run_end_with_it_and_so_do_their_task_runs(world: World, end: str) -> None:
    await owned(world)
    part = await world.store.start_subflow_run(FENCED, flow_id=world.flow_id, task_run_id=world.task_runs["a"], epoch=1)
    inner = await world.store.start_subflow_run(
        FENCED, flow_id=world.flow_id, task_run_id=part["task_runs"][0]["id"], epoch=1
    )
    assert (await world.flow_state(state(end), 2, epoch=1)).status == "SUCCESS"
    for run in (part, inner):
        assert (await world.row("flow_run", run["id"]))["state"] == "Cancelled"
        left = await world.rows("task_run", flow_run_id=run["id"])
        assert {row["state"] for row in left} == {"Cancelled"}
