"""The real Prefect 1.4.1 in an environment of its own, and a flowloop server that it talks to."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..commands import ROOT, environment, serving

FOLDER = Path(__file__).parent
VENV = ROOT / "build" / "prefect1-venv"
VERSIONS = ("3.10", "3.9")


def find_python() -> str | None:
    """Return a Python that Prefect 1 runs on: one on the path, or one that pyenv has."""
    found = [shutil.which(f"python{version}") for version in VERSIONS]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        found += [str(path / "bin" / "python") for path in sorted(pyenv.glob(f"{version}.*"), reverse=True)]
    for python in filter(None, found):  # a shim of pyenv may be there without the version it stands for
        if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            return python
    return None


@pytest.fixture(scope="session")
def prefect_bin() -> Path:
    """The folder with Prefect's Python and its commands; built once, and kept until the requirements change."""
    VENV.parent.mkdir(exist_ok=True)
    with VENV.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other tests beside these may be about to build it, too
        build_environment()
    return VENV / "bin"


def build_environment() -> None:
    requirements = FOLDER / "requirements.txt"
    stamp = VENV / hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.exists():
        return
    python = find_python()
    if python is None:
        pytest.skip(f"Prefect 1.4.1 needs Python {' or '.join(VERSIONS)}, and there is none on this machine")
    shutil.rmtree(VENV, ignore_errors=True)
    subprocess.run([python, "-m", "venv", "--without-pip", VENV], check=True)
    pip = [sys.executable, "-m", "pip", "--python", VENV / "bin" / "python", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-r", requirements], check=True)
    stamp.touch()


class Prefect:
    """Prefect's command line and client, against one server; `folder` is where the shared flow leaves its traces."""

    def __init__(self, bin: Path, url: str, folder: Path) -> None:
        self.bin = bin
        self.url = url
        self.folder = folder
        self._environment = {
            **{name: value for name, value in environment(folder).items() if not name.startswith("PREFECT")},
            "ENGINE": "prefect",
            "HERE": str(folder),
            "PYTHONPATH": str(FOLDER),
            "PYTHONWARNINGS": "ignore",
            "PREFECT__BACKEND": "server",
            "PREFECT__SERVER__ENDPOINT": url,
            "PREFECT__CLOUD__API": url,
            "PREFECT__HOME_DIR": str(folder / "prefect"),
            "PREFECT__USER_CONFIG_PATH": str(folder / "prefect" / "config.toml"),
            "PREFECT__CLOUD__CHECK_CANCELLATION_INTERVAL": "0.5",
        }

    def command(self, *arguments: str, timeout: float = 90) -> str:
        """Run ``prefect …`` and return what it prints."""
        return self._run(str(self.bin / "prefect"), *arguments, timeout=timeout)

    def python(self, code: str, timeout: float = 90) -> str:
        """Run a script that finds `prefect`, `client` and the flow, and return what it prints."""
        return self._run(str(self.bin / "python"), "-c", _PREAMBLE + code, timeout=timeout)

    def _run(self, *command: str, timeout: float) -> str:
        ended = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    @contextlib.contextmanager
    def running(self, code: str) -> Iterator[Callable[[], None]]:
        """Run such a script while the block lasts; the value kills it, and all the processes it has started."""
        with (self.folder / "running.txt").open("w") as output:
            process = subprocess.Popen(
                [self.bin / "python", "-c", _PREAMBLE + code],
                cwd=self.folder,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

        try:
            yield kill
        finally:
            kill()


_PREAMBLE = """
import prefect
from prefect.engine.cloud import CloudFlowRunner
from both import flow
client = prefect.Client()
def run(flow_run_id):
    with prefect.context(flow_run_id=flow_run_id):
        return CloudFlowRunner(flow=flow).run()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect1")


@pytest.fixture(scope="module")
def database(folder: Path) -> str:
    return f"sqlite:///{folder / 'flowloop.db'}"


@pytest.fixture(scope="module")
def prefect(prefect_bin: Path, folder: Path, database: str) -> Iterator[Prefect]:
    """Prefect with a tenant, a project and a registered flow."""
    with serving(database, cwd=folder) as url:
        prefect = Prefect(prefect_bin, url, folder)
        prefect.command("server", "create-tenant", "--name", "default", "--slug", "default")
        prefect.command("create", "project", "demo")
        prefect.python("flow.register('demo')")
        yield prefect


@pytest.fixture(autouse=True)
def no_traces(folder: Path) -> None:
    for name in ("ran.txt", "closed", "fail once"):
        (folder / name).unlink(missing_ok=True)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait until something has happened in another process."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.05)
