"""People are told of flow runs: once for each event, again until it has arrived, and of nothing else."""

from __future__ import annotations

import asyncio
import datetime
import json
import smtplib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from flowloop.backends.embedded import StoreBackend
from flowloop.backends.notifier import Notifier, Sender
from flowloop.engine.backend import NotificationRule
from flowloop.engine.errors import BackendRejected, FlowloopError
from flowloop.engine.state import Failed, Paused, Running, Success, TimedOut

from .runs import flow_document, started

pytestmark = pytest.mark.virtual_time

HOOK = "https://hooks.example.org/secret"


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[StoreBackend]:
    clock: Any = asyncio.get_running_loop().clock  # type: ignore[attr-defined]
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with StoreBackend(url, clock=clock, lease_clock=clock, synchronous="OFF") as opened:
        yield opened


class Box:
    """Where messages arrive; it answers with a status."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.keys: set[str] = set()
        self.status = 200

    def take(self, request: httpx.Request) -> httpx.Response:
        self.got.append((str(request.url), json.loads(request.content)))
        self.keys.add(request.headers["Idempotency-Key"])
        return httpx.Response(self.status)


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def notifier(backend: StoreBackend, box: Box) -> Notifier:
    sender = Sender(page="https://flows.example.org/ui/", transport=httpx.MockTransport(box.take))
    return Notifier(backend, sender)


async def test_a_failure_is_told_once(backend: StoreBackend, notifier: Notifier, box: Box) -> None:
    await backend.set_notification(NotificationRule("failures", "webhook", HOOK, ["Failed"]))
    failed, fine = await started(backend), await started(backend)
    await backend.set_flow_run_state(failed.id, None, Failed("row 4 is odd"))
    await backend.set_flow_run_state(fine.id, None, Success())
    for _ in range(3):
        await notifier.once()
        await anyio.sleep(60)
    ((url, told),) = box.got
    assert url == HOOK
    assert told.pop("id") in box.keys
    assert datetime.datetime.fromisoformat(told.pop("happened")).tzinfo is not None
    assert told == {
        "rule": "failures",
        "event": "Failed",
        "message": "row 4 is odd",
        "flow_run": {"id": failed.id, "name": failed.info.name, "flow": "etl"},
        "url": f"https://flows.example.org/ui/runs/{failed.id}",
    }
    await backend.restart_flow_run(failed.id)
    await backend.set_flow_run_state(failed.id, None, Running())
    await backend.set_flow_run_state(failed.id, None, Failed("again"))
    await notifier.once()
    assert [one["message"] for _, one in box.got] == ["row 4 is odd", "again"]
    await backend.set_flow_run_state((await started(backend)).id, None, TimedOut("took too long"))
    await notifier.once()
    assert (box.got[-1][1]["event"], box.got[-1][1]["message"]) == ("TimedOut", "took too long")


async def test_what_came_before_the_rule_is_not_told_and_a_rule_can_be_of_one_flow(
    backend: StoreBackend, notifier: Notifier, box: Box
) -> None:
    before = await started(backend)
    await backend.set_flow_run_state(before.id, None, Failed("long ago"))
    await anyio.sleep(1)
    await backend.register_flow(flow_document("one"), project_name="demo")
    await backend.set_notification(NotificationRule("one", "slack", HOOK, ["Failed", "Success"], flow="one"))
    for name in ("one", "other"):
        run = await started(backend, document=flow_document(name))
        await backend.set_flow_run_state(run.id, None, Success("well"))
    await notifier.once()
    ((_, told),) = box.got
    assert told["text"].startswith("one ")
    assert told["text"].splitlines()[1:] == ["well", told["text"].splitlines()[-1]]


async def test_it_is_tried_again_until_it_arrives_or_has_been_tried_often_enough(
    backend: StoreBackend, notifier: Notifier, box: Box
) -> None:
    await backend.set_notification(NotificationRule("failures", "webhook", HOOK, ["Failed"]))
    box.status = 503
    run = await started(backend)
    await backend.set_flow_run_state(run.id, None, Failed("no"))
    for _ in range(40):
        await notifier.once()
        await anyio.sleep(300)
    assert len(box.got) == 6
    assert len(box.keys) == 1
    again = await started(backend)
    await backend.set_flow_run_state(again.id, None, Failed("no"))
    await notifier.once()
    box.status = 200
    await anyio.sleep(20)
    assert await notifier.once() == 1
    await anyio.sleep(10_000)
    assert await notifier.once() == 0


async def test_runs_that_are_late_stuck_or_paused_are_told_once(
    backend: StoreBackend, notifier: Notifier, box: Box
) -> None:
    rule = NotificationRule("waits", "webhook", HOOK, ["late", "stuck", "paused"], after=120)
    await backend.set_notification(rule)
    flow = await backend.register_flow(flow_document("waiting"), project_name="demo")
    late = await backend.create_flow_run(flow.id, name="late")
    stuck = await backend.create_flow_run(flow.id, name="stuck", owner="somebody", lease_seconds=30)
    await backend.set_flow_run_state(stuck, None, Running(), epoch=1)
    await backend.update_flow_run_heartbeat(stuck, 1)
    paused = await started(backend)
    await backend.set_task_run_state(paused.tasks[0].id, None, Running())
    await backend.set_task_run_state(paused.tasks[0].id, None, Paused("who knows?"))
    await backend.update_flow_run_heartbeat(paused.id)
    await notifier.once()
    assert [told["event"] for _, told in box.got] == ["paused"]
    for _ in range(10):
        await backend.update_flow_run_heartbeat(paused.id)
        await anyio.sleep(30)
        await notifier.once()
    assert sorted((told["event"], told["flow_run"]["id"]) for _, told in box.got) == sorted(
        [("paused", paused.id), ("late", late), ("stuck", stuck)]
    )


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (NotificationRule("a", "pigeon", HOOK, ["Failed"]), "no notification by 'pigeon'"),
        (NotificationRule("a", "webhook", HOOK, ["Broken"]), "'Broken' is none"),
        (NotificationRule("a", "webhook", HOOK, []), "are needed"),
        (NotificationRule("a", "slack", "hooks", ["Failed"]), "is a URL, not 'hooks'"),
        (NotificationRule("a", "slack", HOOK, ["Failed"], flow="none"), "There is no flow 'none'"),
    ],
)
async def test_a_rule_that_cannot_be_is_refused(backend: StoreBackend, rule: NotificationRule, why: str) -> None:
    with pytest.raises(BackendRejected, match=why):
        await backend.set_notification(rule)


async def test_rules_are_listed_replaced_and_taken_away(backend: StoreBackend) -> None:
    first = NotificationRule("a", "webhook", HOOK, ["Failed"])
    second = NotificationRule("a", "email", "ann@example.org", ["late"], after=5)
    for rule in (first, second):
        await backend.set_notification(rule)
    assert await backend.list_notifications() == [second]
    await backend.delete_notification("a")
    assert await backend.list_notifications() == []
    with pytest.raises(BackendRejected, match="no notification 'a'"):
        await backend.delete_notification("a")


async def test_email_needs_a_server_that_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    note = {
        "id": "1",
        "rule": "a",
        "kind": "email",
        "target": "ann@example.org",
        "event": "Failed",
        "message": "no\nheader: injected",
        "happened": None,
        "flow_run_id": "2",
        "flow_run_name": "r",
        "flow_name": "etl\nBcc: bob@example.org",
    }
    with pytest.raises(FlowloopError, match="no mail server is set"):
        await Sender().send(note)
    sent: list[Any] = []

    class Server:
        def __init__(self, host: str, port: int, timeout: float) -> None:
            sent.append((host, port))

        def __enter__(self) -> Server:
            return self

        def __exit__(self, *exc_info: object) -> None: ...

        def ehlo(self) -> None: ...

        def has_extn(self, name: str) -> bool:
            return False

        def login(self, user: str, password: str) -> None:
            sent.append((user, password))

        def send_message(self, message: Any) -> None:
            sent.append((message["To"], message["Subject"], message["Bcc"]))

    monkeypatch.setattr(smtplib, "SMTP", Server)
    await Sender(smtp_url="smtp://ann:p%40ss@mail.example.org:587").send(note)
    assert sent == [
        ("mail.example.org", 587),
        ("ann", "p@ss"),
        ("ann@example.org", "etl Bcc: bob@example.org r: Failed", None),
    ]


async def test_memory_has_nobody_to_tell() -> None:
    from flowloop.backends.memory import MemoryBackend

    with pytest.raises(FlowloopError, match="need a database"):
        Notifier(MemoryBackend())
