"""What the tests of the cloud runners share."""

import asyncio

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
async def database(tmp_path, settings):
    """A SQLite database, on the clock of the loop."""
    clock = asyncio.get_running_loop().clock
    async with connect(
        f"sqlite:///{tmp_path / 'runs.db'}", settings=settings, clock=clock, lease_clock=clock, synchronous="OFF"
    ) as opened:
        yield opened


@pytest.fixture(params=["memory", "sqlite"])
async def backend(request, tmp_path, settings):
    """Each of the two, on the clock of the loop."""
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'runs.db'}"
    clock = asyncio.get_running_loop().clock
    options = {} if request.param == "memory" else {"synchronous": "OFF", "lease_clock": clock}
    async with connect(url, settings=settings, clock=asyncio.get_running_loop().clock, **options) as opened:
        yield opened
