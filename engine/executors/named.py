"""Executors as text, for the command line and the settings."""

from __future__ import annotations

from ..errors import FlowDefinitionError
from .base import Executor
from .local import LocalExecutor

__all__ = ["executor_named"]

_HOW = "write local, local:8 (threads), processes, processes:4, dask, dask://host:8786, ray or ray://host:10001"


def executor_named(text: str) -> Executor:
    """Return the executor that a text names.

    Args:
        - text: ``local`` (the loop and threads) or ``processes``, with a number after a colon if need be; ``dask`` for
            a cluster on this computer, or ``dask://host:8786`` for one that is there (``dask+tls://`` if it wants TLS);
            ``ray`` or ``ray://host:10001`` likewise

    Raises:
        - FlowDefinitionError: if it names none
    """
    kind, _, rest = text.partition(":")
    if kind in ("local", "processes"):
        return _counted(kind, rest, text)
    if text == "dask" or kind in ("dask", "dask+tls"):
        from .dask import DaskExecutor

        protocol = "tls" if kind == "dask+tls" else "tcp"
        address = rest.removeprefix("//").rstrip("/")
        return DaskExecutor(f"{protocol}://{address}" if address else None)
    if kind == "ray":
        from .ray import RayExecutor

        return RayExecutor(text if rest else None)
    raise FlowDefinitionError(f"there is no executor {text!r}: {_HOW}")


def _counted(kind: str, number: str, text: str) -> Executor:
    if number and not number.isdigit():
        raise FlowDefinitionError(f"there is no executor {text!r}: {_HOW}")
    try:
        if kind == "local":
            return LocalExecutor(int(number)) if number else LocalExecutor()
        from .processes import ProcessExecutor

        return ProcessExecutor(int(number) if number else None)
    except ValueError as error:
        raise FlowDefinitionError(f"there is no executor {text!r}: {error}") from None
