"""``python -m flowloop.compat.prefect1 flow.py`` runs a file as ``python flow.py`` does, with Prefect's names here."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from . import install

if len(sys.argv) < 2:
    sys.exit("usage: python -m flowloop.compat.prefect1 FILE [ARGUMENT ...]")
install()
del sys.argv[0]
sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
runpy.run_path(sys.argv[0], run_name="__main__")
