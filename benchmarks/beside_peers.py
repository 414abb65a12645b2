"""flowloop beside its peers: the same graphs, each engine in its own environment and its best fair configuration.

A peer's script and pinned requirements are in ``benchmarks/peers``; its environment is made under ``build/peers``,
by the first run or by ``python -m benchmarks.beside_peers``.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from .harness import NotMeasured, Row, Sample, compare, missing
from .recording import scratch

TITLE = "Beside other engines: tasks a second"

_SCRIPTS = Path(__file__).parent / "peers"
_ENVIRONMENTS = Path(__file__).parent.parent / "build" / "peers"
_TIME_LIMIT = 120.0
_INSTALL_LIMIT = 1_200.0

WORKLOADS = ("fan-out", "chain", "layers", "two-maps", "diamond")
_AND_SLEEPERS = (*WORKLOADS, "sleepers")
_ON_DASK = ("fan-out", "two-maps")
"""Those that are maps: the runs of flowloop beside these peers are recorded, too."""

_LEAST_LAYERS = 500
"""Tasks of the layered graph at least: a hundred layers are then five wide, and a choice of three is one."""

_REPEATED = 3
"""Rounds in one process at most. The best counts: the first one may pay for what is made once."""


class PeerError(NotMeasured):
    """A peer cannot be installed, or does not answer."""


class Peer(NamedTuple):
    """Another engine.

    Args:
        - name: what tables call it
        - script: in ``benchmarks/peers``, without its ending
        - sizes: how many tasks; few where a task takes long
        - workloads: those it can show something with; sleepers only where bodies are coroutines
        - also: single workloads of other sizes
        - ours: the script of flowloop that does the like
        - requirements: the file of pinned requirements, without its ending; the script's name if empty
        - python: the version it needs, if it does not run on this one
    """

    name: str
    script: str
    sizes: tuple[int, ...]
    workloads: tuple[str, ...] = WORKLOADS
    also: tuple[tuple[str, int], ...] = ()
    ours: str = "flowloop_engine"
    requirements: str = ""
    python: str = ""


PEERS = (
    Peer("Hamilton, async driver", "hamilton_async", (1_000, 10_000), _AND_SLEEPERS),
    Peer("taskiq, in memory", "taskiq_memory", (1_000,), _AND_SLEEPERS),
    Peer("Dask, threads", "dask_threads", (1_000,), requirements="dask"),
    Peer("Dask distributed", "dask_distributed", (500,), requirements="dask"),
    Peer("Dask futures, 2 processes", "dask_futures", (1_000,), _ON_DASK, requirements="dask", ours="flowloop_dask"),
    Peer("Prefect 3 on Dask, 2 processes", "prefect_3_dask", (200,), _ON_DASK, ours="flowloop_dask"),
    Peer("Ray", "ray_local", (500,)),
    Peer("Dagster, in process", "dagster_in_process", (100,)),
    Peer("Prefect 1.4.1", "prefect_1", (200,), python="3.10"),
    Peer("Prefect 3", "prefect_3", (200,)),
    Peer("DBOS on SQLite", "dbos_sqlite", (1_000,), also=(("fan-out", 10_000),), ours="flowloop_sqlite"),
)


def run(scale: str) -> list[Row]:
    """Measure each peer in turns with flowloop; what a peer cannot do, or not in time, is said in its row."""
    rows: list[Row] = []
    for peer in PEERS:
        try:
            python = environment_of(peer)
        except PeerError as error:
            rows.append(missing("all workloads", peer.name, error))
            continue
        for workload, size in (*((workload, size) for size in peer.sizes for workload in peer.workloads), *peer.also):
            rows += _beside(peer, python, workload, size, rounds=1 if scale == "quick" else 3)
    return rows


def _beside(peer: Peer, python: str, workload: str, size: int, rounds: int) -> list[Row]:
    size = max(size, _LEAST_LAYERS) if workload == "layers" else size
    case = f"{workload}, {peer.name}"
    contenders = {
        peer.name: functools.partial(measured_by, python, peer.script, workload, size),
        "flowloop": functools.partial(measured_by, sys.executable, peer.ours, workload, size),
    }
    try:
        return compare(case, contenders, unit="tasks/s", rounds=rounds, baseline=peer.name, size=size, warm_up=False)
    except PeerError as error:
        return [missing(case, peer.name, error)]


def configuration(peer: Peer) -> str:
    """Return how a peer is set up, as its script says."""
    tree = ast.parse((_SCRIPTS / f"{peer.script}.py").read_text())
    return ast.get_docstring(tree) or ""


def measured_by(python: str, script: str, workload: str, size: int) -> Sample:
    """Run a script, and return the rate of the best of its rounds."""
    command = [python, str(_SCRIPTS / f"{script}.py"), workload, str(size), str(_REPEATED)]
    done = _run(command, _TIME_LIMIT)
    answers = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not answers:
        raise PeerError(_last_line(done.stderr))
    found = json.loads(answers[-1])
    about = f"{found['version']}, Python {found['python']}"
    return Sample(size / min(found["seconds"]), {"RSS MB": found["rss_mb"], **found.get("details", {})}, about)


def _run(command: list[str], limit: float) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it says; its servers, workers and temporary files end with it, at the latest."""
    with scratch() as folder, (folder / "out").open("w+") as output, (folder / "err").open("w+") as errors:
        environment = {**os.environ, "TMPDIR": str(folder)}
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired as error:
            raise PeerError(f"no answer within {limit:.0f} s") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(command, code, output.read(), errors.read())


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]


# -- environments ------------------------------------------------------------------------------------------


def environment_of(peer: Peer) -> str:
    """Return the interpreter of a peer's environment, made if it is not there yet."""
    name = peer.requirements or peer.script
    requirements = _SCRIPTS / f"{name}.txt"
    folder = _ENVIRONMENTS / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        print(f"{peer.name}: installing into {folder.relative_to(_ENVIRONMENTS.parent.parent)}", flush=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([_interpreter(peer.python), "-m", "venv", "--clear", str(folder)], _INSTALL_LIMIT)
        done = _run([*pip, "--requirement", str(requirements)], _INSTALL_LIMIT)
        if done.returncode:
            raise PeerError(f"not installed: {_last_line(done.stderr)}")
        stamp.write_text(digest)
    return str(python)


def _interpreter(version: str) -> str:
    if not version:
        return sys.executable
    under_pyenv = sorted(
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python")
    )
    found = str(under_pyenv[-1]) if under_pyenv else shutil.which(f"python{version}")
    if found is None:
        raise PeerError(f"it needs Python {version}, and there is none")
    return found


if __name__ == "__main__":
    for one in PEERS:
        print(f"{one.name}: {environment_of(one)}")
