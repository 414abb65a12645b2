"""What people see in a terminal: the screen as it stands while a run goes on, and as it is left."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyte
import pytest

from .commands import environment, flowloop

FLOWS = """
import asyncio
from pathlib import Path
from flowloop.engine import Flow, Secret, task, unmapped

@task(max_retries=1, retry_delay=0)
async def price(row, token):
    if row == 1:
        raise ValueError(f"bad row {row} with {token}")
    while row == 3 and not Path("go").exists():
        await asyncio.sleep(0.01)
    return row

@task
async def total(prices):
    return sum(prices)

@task(name="rude\\x1b[31m\\x07")
def rude():
    return 1

with Flow("prices") as prices:
    total(price.map([0, 1, 2, 3], token=unmapped(Secret("TOKEN"))))

with Flow("rude") as rude_flow:
    rude()
"""

COLUMNS, LINES = 110, 40


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path


class Terminal:
    """A terminal in which one command runs, and what it shows."""

    def __init__(self, main: int, process: subprocess.Popen[bytes]) -> None:
        self._main = main
        self.process = process
        self._screen = pyte.HistoryScreen(COLUMNS, LINES, history=1_000)
        self._stream = pyte.ByteStream(self._screen)
        self.written = b""

    @property
    def screen(self) -> str:
        """What stands on the screen."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    @property
    def cursor_is_shown(self) -> bool:
        return not self._screen.cursor.hidden

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    @property
    def waits(self) -> bool:
        """Whether the command does nothing just now: Ctrl-C in the moment before it reads is seen at the next key."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"

    def read(self, until: Callable[[str], object] = lambda _: False) -> str:
        """Read until the screen is as wanted, or the command has ended, and return the screen."""
        deadline = time.monotonic() + 60
        while not until(self.screen):
            assert time.monotonic() < deadline, self.screen
            if not select.select([self._main], [], [], 0.1)[0]:
                continue
            try:
                part = os.read(self._main, 65_536)
            except OSError:  # nobody has the other end open any more
                break
            if not part:
                break
            self.written += part
            self._stream.feed(part)
        return self.screen


@contextmanager
def terminal(*arguments: str, cwd: Path) -> Iterator[Terminal]:
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    extra = {"FLOWLOOP_SECRET__TOKEN": "hunter2!", "TERM": "xterm-256color"}
    variables = environment(cwd, extra)
    del variables["COLUMNS"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from flowloop.backends.cli import main; main()", *arguments],
        cwd=cwd,
        env=variables,
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
    )
    os.close(other)
    try:
        yield Terminal(main, process)
    finally:
        process.kill()
        process.wait(60)
        os.close(main)


def row(screen: str, name: str) -> str:
    found = re.search(rf"^│ {re.escape(name)} .*│$", screen, re.MULTILINE)
    assert found, screen
    return found[0]


def test_a_run_is_a_table_that_is_kept_up_to_date_and_left_as_it_ended(home: Path) -> None:
    with terminal("run", "flows.py:prices", cwd=home) as it:
        # The last line is written last: what is read before it is a part of the table.
        left = r"5 of 7 task runs, 1 failed, 0:\d\d, about 0:\d\d left"
        screen = it.read(lambda screen: re.search(left, screen) and re.search(r"price-1 .*│ +2 │", screen))
        assert {"2 Success", "1 Failed", "1 Running"} <= set(map(str.strip, re.split(r"[:,│]", row(screen, "price-1"))))
        # Each failing attempt is told when it happens, above the table: with its line, and without the secret.
        assert "price[1]: attempt 1 of 2 failed, next in 0 s: ValueError: bad row 1 with ***" in screen
        assert "price[1]: attempt 2 of 2 failed: ValueError: bad row 1 with ***" in screen
        assert 'raise ValueError(f"bad row {row} with {token}")' in screen
        for column in ("task", "state", "done", "attempts", "duration"):
            assert re.search(rf"┃ +{column} ", screen), screen
        # Three of four children are done: so is three quarters of the bar.
        assert "━" * 15 in row(screen, "price-1")
        assert re.search(r"│ +2 │ +0:\d\d │$", row(screen, "price-1"))
        assert not it.cursor_is_shown
        (home / "go").touch()
        screen = it.read()
        assert it.process.wait(60) == 1
    assert it.cursor_is_shown
    assert screen.count("┃ task ") == 1, "the table is left once"
    assert "┃ done" not in screen
    assert "Mapped 4: 3 Success, 1 Failed" in row(screen, "price-1")
    assert "TriggerFailed" in row(screen, "total-1")
    assert "7 of 7 task runs, 2 failed, 0:" in screen
    assert "price-1[1] Failed  Error during execution of task: ValueError('bad row 1 with ***')" in screen
    assert b"hunter2!" not in it.written


def test_ctrl_c_leaves_the_terminal_as_it_was(home: Path) -> None:
    with terminal("run", "flows.py:prices", cwd=home) as it:
        it.read(lambda screen: "1 Failed, 1 Running" in screen)
        it.type("\x03")
        screen = it.read()
        assert it.process.wait(60) == 130
    assert it.cursor_is_shown
    assert "Cancelled" in row(screen, "price-1")
    assert re.search(r"^flowloop: interrupted$", screen, re.MULTILINE)
    assert "KeyboardInterrupt" not in screen
    assert screen.count("Traceback (most recent call last)") == screen.count(" of 2 failed"), "of the attempts alone"


def test_ctrl_c_at_a_question_is_one_line(home: Path) -> None:
    flowloop("run", "flows.py:rude_flow", "--name", "greet", cwd=home)
    for question, words in (("Delete greet?", ("delete", "greet")), ("TOKEN:", ("secrets", "set", "TOKEN"))):
        with terminal(*words, cwd=home) as it:
            it.read(lambda screen, it=it, question=question: question in screen and it.waits)
            it.type("\x03")
            screen = it.read()
            assert it.process.wait(60) == 130
        assert screen.splitlines()[1:3] == ["flowloop: interrupted", ""]
    assert flowloop("show", "greet", cwd=home).returncode == 0


def test_no_name_controls_the_terminal(home: Path) -> None:
    with terminal("run", "flows.py:rude_flow", cwd=home) as it:
        screen = it.read()
        assert it.process.wait(60) == 0
    assert b"\x1b[31m\x07" not in it.written
    assert b"\x07" not in it.written
    assert "rude\\x1b[31m\\x07-1" in row(screen, "rude\\x1b[31m\\x07-1")
