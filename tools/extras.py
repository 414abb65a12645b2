"""Installs a wheel with each extra, in empty environments, and uses what the extra gives: ``make extras``.

``python tools/extras.py [--python PATH]… [EXTRA]…``: on each Python that is named, or on this one; all extras, or those
that are named. Those for working on flowloop itself need its sources, and are not among them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_A_FLOW = """
import asyncio
from flowloop import Flow, connect, task
from flowloop.engine.cloud import CloudFlowRunner
with Flow("f") as flow:
    one = task(lambda: 1, name="one")()
async def main():
    async with connect({url!r}) as backend:
        assert (await CloudFlowRunner(flow, backend=backend).run()).is_successful()
asyncio.run(main())
"""
_AN_EXECUTOR = """
from flowloop import Flow, task
from flowloop.engine.executors import {executor}
with Flow("f") as flow:
    one = task(lambda: 1, name="one")()
if __name__ == "__main__":
    assert flow.run_sync(executor={executor}({arguments})).result[one].result == 1
"""
_COMMAND = """
import subprocess, sys
from pathlib import Path
subprocess.run([Path(sys.executable).with_name("flowloop"), "--help"], check=True, stdout=subprocess.DEVNULL)
"""

USES = {
    "": "from flowloop import Flow, task; Flow('f', tasks=[task(lambda: 1, name='one')]).run_sync()",
    "store": _A_FLOW.format(url="sqlite:///runs.db"),
    "postgres": "import asyncpg, flowloop.backends.store",
    "server": "import flowloop.backends.server, uvicorn",
    "otel": "from flowloop.engine.telemetry import instrument; instrument()",
    "prometheus": "from flowloop.backends.prometheus import Prometheus; Prometheus()",
    "pandas": "import pandas; from flowloop.engine.serializers import PandasSerializer as P; s = P('parquet'); "
    "assert len(s.deserialize(s.serialize(pandas.DataFrame({'a': [1, 2]})))) == 2",
    "objects": "import obstore; from flowloop.engine.results import S3Result; S3Result('bucket')",
    "dask": _AN_EXECUTOR.format(executor="DaskExecutor", arguments="cluster_kwargs={'n_workers': 1}"),
    "ray": _AN_EXECUTOR.format(executor="RayExecutor", arguments=""),
    "kubernetes": "import kubernetes_asyncio, flowloop.engine.executors.kubernetes",
    "png": "from flowloop import Flow, task; "
    "assert Flow('f', tasks=[task(lambda: 1, name='one')]).visualize().png.startswith(b'\\x89PNG')",
    "schedules": "from flowloop.engine.schedules import CronSchedule; assert CronSchedule('0 9 * * *').next(1)",
    "cli": _COMMAND,
    "all": _A_FLOW.format(url="sqlite:///runs.db"),
    "demo": _COMMAND + "import vega_datasets",
    "migrate": "import pathlib; pathlib.Path('old.py').write_text('from prefect import Flow'); "
    "from flowloop.compat.prefect1.report import report; assert report(pathlib.Path('old.py'))",
}
"""What is done with each extra; the first is none."""

OF_DEVELOPERS = {"bench", "dev", "docs", "release"}


def run(*command: str | Path, cwd: Path) -> str | None:
    """Run a command; return what it wrote if it failed."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}" if done.returncode else None


def tried(python: str, wheel: Path, extra: str) -> str | None:
    """Install the wheel with an extra in an empty environment and use it; return what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        environment = here / "environment"
        own = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        program = here / "uses.py"
        program.write_text(USES[extra], encoding="utf-8")
        what = f"{wheel}[{extra}]" if extra else str(wheel)
        return (
            run(python, "-m", "venv", environment, cwd=here)
            or run(own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", what, cwd=here)
            or run(own, "-m", "pip", "check", cwd=here)
            or run(own, "-W", "error::DeprecationWarning:flowloop", program, cwd=here)
        )


def main() -> None:
    """Try them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", action="append")
    parser.add_argument("extras", nargs="*", choices=[*USES, []])
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        built = run(
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, cwd=Path(folder)
        )
        if built:
            sys.exit(built)
        (wheel,) = Path(folder).glob("*.whl")
        for python in given.python or [sys.executable]:
            for extra in given.extras or USES:
                problem = tried(python, wheel, extra)
                failed += problem is not None
                print(f"{python}: {extra or 'no extra'}: {'works' if problem is None else problem}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
