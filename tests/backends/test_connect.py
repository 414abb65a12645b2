"""From a URL to a backend."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import flowloop.backends
import flowloop.engine.backend
from flowloop.backends import connect
from flowloop.backends.client.backend import GraphQLBackend
from flowloop.backends.embedded import StoreBackend
from flowloop.backends.memory.backend import MemoryBackend
from flowloop.engine.errors import FlowloopError
from flowloop.engine.settings import Settings


@pytest.mark.parametrize(
    ("url", "kind", "shown"),
    [
        ("memory://", MemoryBackend, "memory://"),
        ("sqlite:///some.db", StoreBackend, "sqlite:///some.db"),
        ("postgresql://me:secret@host/flows", StoreBackend, "postgresql://me:***@host/flows"),
        ("postgresql+asyncpg://host/flows", StoreBackend, "postgresql+asyncpg://host/flows"),
        ("http://me:secret@host:4200/", GraphQLBackend, "http://host:4200"),
        ("https://host/flows/", GraphQLBackend, "https://host/flows"),
    ],
)
def test_the_scheme_chooses_the_backend_and_no_password_is_shown(url: str, kind: type, shown: str) -> None:
    backend = connect(url, settings=Settings())
    assert type(backend) is kind
    assert backend.url == shown


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://user:secret@host", "no backend serves 'redis:'"),
        ("flowloop.db", "no backend serves 'flowloop.db'"),
        ("", "no backend serves ''"),
    ],
)
def test_an_unknown_scheme_is_one_clear_line(url: str, message: str) -> None:
    with pytest.raises(FlowloopError) as caught:
        connect(url)
    assert (
        str(caught.value)
        == f"{message}: a backend URL begins with one of http, https, memory, postgres, postgresql, sqlite"
    )


def test_every_adapter_that_is_announced_exists() -> None:
    announced = {entry.name: entry.load() for entry in entry_points(group="flowloop.backends")}
    assert announced == {
        "memory": MemoryBackend,
        "sqlite": StoreBackend,
        "postgres": StoreBackend,
        "postgresql": StoreBackend,
        "http": GraphQLBackend,
        "https": GraphQLBackend,
    }


def test_both_halves_offer_the_same_connect() -> None:
    assert flowloop.backends.connect is flowloop.engine.backend.connect


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_a_missing_extra_is_named() -> None:
    out = python(
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from flowloop.backends import connect\n"
        "from flowloop.engine.errors import FlowloopError\n"
        "try: connect('sqlite:///x.db')\n"
        "except FlowloopError as error: print(error)\n"
    )
    assert out == "a database backend needs an extra: pip install 'flowloop[store]'\n"


def test_the_client_needs_no_extra_and_importing_the_package_loads_nothing() -> None:
    out = python(
        "import sys\n"
        "for name in ('sqlalchemy', 'starlette', 'websockets', 'uvicorn'): sys.modules[name] = None\n"
        "import flowloop.backends\n"
        "print('gql' in sys.modules, 'httpx' in sys.modules)\n"
        "from flowloop.engine.settings import Settings\n"
        "print(flowloop.backends.connect('http://host', settings=Settings()).url)\n"
    )
    assert out == "False False\nhttp://host\n"
