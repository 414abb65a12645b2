"""flowloop beside its peers: the same graphs, each engine in its own environment and its best fair configuration.

A peer's script and pinned requirements are in ``benchmarks/peers``; its environment is made under ``build/peers``.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from .harness import Row, Sample, compare

TITLE = "Beside other engines: tasks a second"

_SCRIPTS = Path(__file__).parent / "peers"
_ENVIRONMENTS = Path(__file__).parent.parent / "build" / "peers"
_TIME_LIMIT = 180.0
_INSTALL_LIMIT = 1_200.0
WORKLOADS = ("fan-out", "chain", "layers", "two-maps")


class Peer(NamedTuple):
    """Another engine.

    Args:
        - name: what tables call it
        - script: in ``benchmarks/peers``, without its ending
        - sizes: how many tasks; few where a task takes long
        - ours: the script of flowloop that does the like
        - requirements: the file of pinned requirements, without its ending; the script's name if empty
        - python: the version it needs, if it does not run on this one
    """

    name: str
    script: str
    sizes: tuple[int, ...]
    ours: str = "flowloop_engine"
    requirements: str = ""
    python: str = ""


PEERS = (
    Peer("Hamilton, async driver", "hamilton_async", (1_000, 10_000)),
    Peer("taskiq, in memory", "taskiq_memory", (1_000,)),
    Peer("Dask, threads", "dask_threads", (1_000,), requirements="dask"),
    Peer("Dask distributed", "dask_distributed", (500,), requirements="dask"),
    Peer("Ray", "ray_local", (500,)),
    Peer("Dagster, in process", "dagster_in_process", (100,)),
    Peer("Prefect 1.4.1", "prefect_1", (200,), python="3.10"),
    Peer("Prefect 3", "prefect_3", (100,)),
    Peer("DBOS on SQLite", "dbos_sqlite", (500,), ours="flowloop_sqlite"),
)


def run(scale: str) -> list[Row]:
    """Measure each peer in turns with flowloop; a peer that cannot be installed, or takes too long, is left out."""
    rows: list[Row] = []
    for peer in PEERS:
        try:
            python = _environment(peer)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{peer.name}: not here: {error}", flush=True)
            continue
        for size in peer.sizes:
            for workload in WORKLOADS:
                contenders = {
                    peer.name: functools.partial(_measured, python, peer.script, workload, size),
                    "flowloop": functools.partial(_measured, sys.executable, peer.ours, workload, size),
                }
                try:
                    rows += compare(
                        f"{workload}, {peer.name}",
                        contenders,
                        unit="tasks/s",
                        rounds=1 if scale == "quick" else 3,
                        baseline=peer.name,
                        size=size,
                        warm_up=False,
                    )
                except (subprocess.SubprocessError, ValueError) as error:
                    print(f"{peer.name}, {workload}: no result: {error}", flush=True)
    return rows


def configuration(peer: Peer) -> str:
    """Return how a peer is set up, as its script says."""
    tree = ast.parse((_SCRIPTS / f"{peer.script}.py").read_text())
    return ast.get_docstring(tree) or ""


def _measured(python: str, script: str, workload: str, size: int) -> Sample:
    """Run a script, and return the rate of its best round: the first one often pays for what is made once."""
    done = subprocess.run(
        [python, str(_SCRIPTS / f"{script}.py"), workload, str(size), "3"],
        capture_output=True,
        text=True,
        timeout=_TIME_LIMIT,
        check=False,
    )
    answers = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not answers:
        raise ValueError((done.stderr.strip().splitlines() or ["it says nothing"])[-1])
    found = json.loads(answers[-1])
    return Sample(size / min(found["seconds"]), {"RSS MB": found["rss_mb"]})


# -- environments ------------------------------------------------------------------------------------------


def _environment(peer: Peer) -> str:
    """Return the interpreter of a peer's environment, made if it is not there yet."""
    name = peer.requirements or peer.script
    requirements = _SCRIPTS / f"{name}.txt"
    folder = _ENVIRONMENTS / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        print(f"{peer.name}: installing into {folder.relative_to(_ENVIRONMENTS.parent.parent)}", flush=True)
        subprocess.run([_interpreter(peer.python), "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", str(requirements)], check=True, timeout=_INSTALL_LIMIT)
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
        raise FileNotFoundError(f"it needs Python {version}, and there is none")
    return found
