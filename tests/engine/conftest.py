"""What the tests of the cloud runners share."""

import asyncio
import shutil

import pytest

from flowloop.backends import connect
from flowloop.engine import Settings


@pytest.fixture
def settings(tmp_path):
    # the longer nothing happens by itself, the fewer turns virtual time takes
    return Settings(home=str(tmp_path / "home"), heartbeat_interval=1000, check_cancellation_interval=1000)


@pytest.fixture
async def memory(settings):
    """The backend in memory, on the clock of the loop."""
    async with connect("memory://", settings=settings, clock=asyncio.get_running_loop().clock) as opened:
        yield opened


@pytest.fixture
def sqlite_url(tmp_path, sqlite_template):
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'runs.db')}"


@pytest.fixture
async def database(sqlite_url, settings):
    """A SQLite database, on the clock of the loop."""
    clock = asyncio.get_running_loop().clock
    async with connect(sqlite_url, settings=settings, clock=clock, lease_clock=clock, synchronous="OFF") as opened:
        yield opened


@pytest.fixture(params=["memory", "sqlite"])
async def backend(request, sqlite_url, settings):
    """Each of the two, on the clock of the loop."""
    url = "memory://" if request.param == "memory" else sqlite_url
    clock = asyncio.get_running_loop().clock
    options = {} if request.param == "memory" else {"synchronous": "OFF", "lease_clock": clock}
    async with connect(url, settings=settings, clock=asyncio.get_running_loop().clock, **options) as opened:
        yield opened
