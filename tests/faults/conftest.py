"""What the faults share: how often each is tried, what it is chosen by, and where runs are recorded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloop.backends.server.app import create_app
from flowloop.backends.server.settings import ServerSettings

from ..backends.serving import serve


@pytest.fixture
def tries(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--tries"))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(int(request.config.getoption("--seed")))


@pytest.fixture(params=["sqlite", "http", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A backend to connect to: a new SQLite file, a server of one, and a database on PostgreSQL."""
    if request.param == "postgresql":
        yield str(request.getfixturevalue("emptied_postgres_url"))
        return
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    if request.param == "sqlite":
        yield database
        return
    with serve(create_app(database, settings=ServerSettings(require_api_key=False))) as served:
        yield served
