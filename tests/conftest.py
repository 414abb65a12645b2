"""Which event loop a test runs on: that of asyncio, or, marked ``virtual_time``, one whose time jumps."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import hypothesis
import pytest

from flowloop.engine import watchdog
from flowloop.engine._run.drive import Drive
from flowloop.engine.testing import VirtualLoop

from .databases import (
    compiled_once,
    database_url,
    emptied_postgres_url,
    postgres_server,
    postgres_url,
    sqlite_template,
)

# here they are one for all files: a fixture that each file imports is made anew for it
__all__ = [
    "compiled_once",
    "database_url",
    "emptied_postgres_url",
    "postgres_server",
    "postgres_url",
    "sqlite_template",
]

# how long an example takes, or is looked for, says how busy the machine is
hypothesis.settings.register_profile("flowloop", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("flowloop")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tries", type=int, default=5, help="how often each fault is tried in tests/faults")
    parser.addoption("--soak", type=float, default=0, help="for how many minutes tests/faults/test_soak.py runs flows")
    parser.addoption("--seed", type=int, default=1, help="what the faults in tests/faults are chosen by")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtual_time: runs on flowloop.engine.testing.VirtualLoop")
    Drive.keeps_story = True
    watchdog._PATIENCE *= 60  # a busy machine blocks a loop for a second by itself, and tests look at what is logged
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # as where a shell runs the tests in its background; whatever they start would hear of no Ctrl-C either
        signal.signal(signal.SIGINT, signal.default_int_handler)


_LONGEST = (
    "test_prefect1",
    "test_page",
    "test_conformance",
    "test_owners",
    "test_views",
    "test_poison",
    "test_budgets",
    "test_live",
    "test_lost",
    "test_transitions",
    "test_limits",
    "test_dask",
    "test_places",
    "test_docs",
    "test_kills",
    "test_queue",
    "test_ends",
    "test_fleet",
    "test_examples",
    "test_value_grid",
    "test_cancel_at_every_await",
)
"""The files that take longest, those of a browser between those that wait for other processes."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Leave what is imported here out of what is looked through for garbage: it is most of what there is, and stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # they begin first, or the end of the tests is one core that waits for the last of them
    place = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("virtual_time") is not None:
        return {"virtual": VirtualLoop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Files share a process in changing company: what a test leaves in it is a surprise to whichever comes next.

    What others change there by design is put back: the environment by Dask, the path by a flow that is loaded, and what
    hears of signals by servers that are started in one turn of a loop and stopped in another.
    """
    before = process_wide()
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with mock.patch.dict(os.environ), mock.patch.object(sys, "path", [*sys.path]):
        yield
    for number, handler in signals.items():
        signal.signal(number, handler)
    assert process_wide() == before


def process_wide() -> dict[str, Any]:
    return {
        "folder": os.getcwd(),
        "logging": [logging.root.level, logging.root.manager.disable, logging.getLogger("flowloop").level],
    }
