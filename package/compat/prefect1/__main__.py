"""``python -m flowloop.compat.prefect1 flow.py`` runs a file as ``python flow.py`` does, with Prefect's names here."""

from __future__ import annotations

import logging
import runpy
import sys
from pathlib import Path

from ...engine.settings import Settings
from . import install


def _log() -> None:
    """Write what a flow logs to stderr, as a file expects that has set up nothing."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(levelname)s - %(name)s | %(message)s"))
    for name in ("flowloop", "prefect"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(Settings.from_env().log_level.upper())


if len(sys.argv) < 2:
    sys.exit("usage: python -m flowloop.compat.prefect1 FILE [ARGUMENT ...]")
install()
_log()
del sys.argv[0]
sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
runpy.run_path(sys.argv[0], run_name="__main__")
