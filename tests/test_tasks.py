"""The tasks that many flows need, against real commands, servers and databases."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from flowloop.backends import connect
from flowloop.backends.worker import Worker
from flowloop.engine import Flow, context, task
from flowloop.engine.cloud import CloudFlowRunner, register_flow
from flowloop.engine.state import Failed
from flowloop.tasks import (
    ShellTask,
    create_flow_run,
    http_request,
    post_to_slack,
    send_mail,
    shell,
    slack_notifier,
    sql_query,
    wait_for_flow_run,
)


async def outcome(made: Any) -> Any:
    """Run a flow of one call, and return the state of the task."""
    with Flow("one") as flow:
        called = made()
    return (await flow.run())[called]


async def test_a_command_is_run_and_its_failure_is_told() -> None:
    assert (await outcome(lambda: shell("echo $WHO; echo there", {"WHO": "you"}))).result == "you\nthere"
    failed = await outcome(lambda: shell("echo no; exit 3"))
    assert failed.message == "the command ended with exit code 3: no"
    assert failed.result == ["no"]


async def test_a_command_that_is_cancelled_is_gone_with_what_it_started(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    running = asyncio.create_task(shell.run(f"sleep 1000 > {pipe} & wait"))
    read = await asyncio.to_thread(os.open, pipe, os.O_RDONLY)  # waits for the writer
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    try:
        assert await asyncio.to_thread(os.read, read, 1) == b""  # ends when nobody has the other end any more
    finally:
        os.close(read)


async def test_a_command_that_is_cancelled_while_it_begins_is_gone_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    create = asyncio.create_subprocess_exec
    has_begun = asyncio.Event()

    async def slow(*args: Any, **kwargs: Any) -> Any:
        process = await create(*args, **kwargs)
        read.append(await asyncio.to_thread(os.open, pipe, os.O_RDONLY))
        has_begun.set()
        await asyncio.sleep(0)
        return process

    read: list[int] = []
    monkeypatch.setattr(asyncio, "create_subprocess_exec", slow)
    running = asyncio.create_task(shell.run(f"sleep 1000 > {pipe} & wait"))
    await has_begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    try:
        assert await asyncio.to_thread(os.read, read[0], 1) == b""
    finally:
        os.close(read[0])


async def test_a_shell_task_is_that_of_prefect() -> None:
    made = ShellTask(helper_script="X=2", return_all=True)
    assert (await outcome(lambda: made("echo a; echo $X"))).result == ["a", "2"]
    assert (await outcome(lambda: ShellTask("echo a; echo b")())).result == "b"
    assert "needs a command" in str((await outcome(lambda: ShellTask()())).message)


@asynccontextmanager
async def listening(answer: Any) -> AsyncIterator[int]:
    """Serve connections by a coroutine function on a free port."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_requests_and_messages_are_sent() -> None:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.lower().splitlines() if b"content-length" in line), 0)
        heard.append(head.splitlines()[0] + await reader.readexactly(length))
        status = b"404 Not Found" if b"nothing" in head else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\ncontent-length: 7\r\n")
        writer.write(b'connection: close\r\n\r\n{"a":1}')
        await writer.drain()
        writer.close()

    async with listening(answer) as port:
        url = f"http://127.0.0.1:{port}"
        assert (await outcome(lambda: http_request(f"{url}/page"))).result == {"a": 1}
        assert "404" in str((await outcome(lambda: http_request(f"{url}/nothing"))).message)
        assert (await outcome(lambda: post_to_slack("hello", url))).is_successful()

        @task
        def breaks() -> None:
            raise ValueError("broken")

        with Flow("told", state_handlers=[slack_notifier(only_states=[Failed])]) as flow:
            breaks()
        with context(secrets={"SLACK_WEBHOOK_URL": url}):
            await flow.run()
    assert heard[0].startswith(b"GET /page")
    assert heard[2].endswith(b'{"text":"hello"}')
    told = json.loads(heard[3].partition(b"HTTP/1.1")[2])["text"]
    assert told.startswith("told is Failed: 1 of 1 reference tasks failed: breaks (ValueError: broken)")
    assert len(heard) == 4


async def test_a_message_that_cannot_be_sent_fails_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with Flow("untold", state_handlers=[slack_notifier()]) as flow:
        task(lambda: 1, name="one")()
    assert (await flow.run()).is_successful()
    assert "Slack was not told that untold is Running" in caplog.text


async def test_mail_is_sent() -> None:
    letter: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        in_data = False
        while line := await reader.readline():
            if in_data:
                in_data = line != b".\r\n"
                letter.append(line)
                if in_data:
                    continue
            elif line.upper().startswith(b"DATA"):
                in_data = True
                writer.write(b"354 go on\r\n")
                continue
            writer.write(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 fine\r\n")
        writer.close()

    async with listening(answer) as port:
        sent = await outcome(
            lambda: send_mail(
                ["ann@example.org"], "A report", "All is well.", sender="f@example.org", host="127.0.0.1", port=port,
                tls=False, html="<b>All is well.</b>",
            )
        )  # fmt: skip
    assert sent.is_successful(), sent.message
    text = b"".join(letter)
    assert b"To: ann@example.org" in text
    assert b"All is well." in text


async def test_statements_are_executed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    assert (await outcome(lambda: sql_query(url, "CREATE TABLE sale (what TEXT, price INT)"))).result == []
    rows = [{"what": "tea", "price": 3}, {"what": "jam", "price": 4}]
    await outcome(lambda: sql_query(url, "INSERT INTO sale VALUES (:what, :price)", rows))
    found = await outcome(lambda: sql_query(url, "SELECT * FROM sale WHERE price > :least", {"least": 3}))
    assert found.result == [{"what": "jam", "price": 4}]


async def test_another_flow_is_started_and_waited_for(tmp_path: Path) -> None:
    with Flow("other") as other:
        task(lambda: 1, name="one")()
    with Flow("starter") as flow:
        run_id = create_flow_run(flow_name="other", scheduled_start_time=datetime.timedelta())
        final = wait_for_flow_run(run_id, raise_final_state=True)
        create_flow_run(flow_name="none", task_args={"name": "none"})
    async with connect(f"sqlite:///{tmp_path / 'runs.db'}") as backend:
        await register_flow(other, backend)
        async with Worker(backend, {"other": other}, poll_interval=0.05):
            state = await CloudFlowRunner(flow, backend=backend).run()
        runs = {run.flow_name: run.state for run in await backend.list_flow_runs()}
    assert state[final].is_successful()
    assert runs["other"] == "Success"
    assert "there is no flow named 'none'" in str(state["none-1"].message)
