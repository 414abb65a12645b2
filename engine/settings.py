"""Every setting, in one typed place.

A setting has a default, an environment variable (``FLOWLOOP_`` and its name in capitals) that overrides the
default, and often an argument that overrides both. There is no global configuration object: whoever needs
settings receives them, or reads them once when it is created.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from .errors import FlowloopError

__all__ = ["Settings", "read_settings"]

S = TypeVar("S", bound=msgspec.Struct)

_PREFIX = "FLOWLOOP_"


def _default_home() -> str:
    return str(Path.home() / ".flowloop")


def read_settings(kind: type[S], prefix: str, environ: Mapping[str, str] | None = None) -> S:
    """Read settings from environment variables: `prefix` and the name of the field in capitals.

    Args:
        - kind: a struct whose fields have defaults
        - prefix: how the names of the variables begin
        - environ: where to read; the environment of the process if None

    Raises:
        - FlowloopError: if a variable cannot be read as the type of its setting
    """
    source = os.environ if environ is None else environ
    given = {
        field: source[prefix + field.upper()] for field in kind.__struct_fields__ if source.get(prefix + field.upper())
    }
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise FlowloopError(f"an environment variable {prefix}… is not valid: {error}") from error


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of this process, as `Settings.from_env` reads them.

    Durations are in seconds.
    """

    home: str = msgspec.field(default_factory=_default_home)
    """Folder of the embedded database and of stored results."""

    backend_url: str = ""
    """Backend of the cloud runners and of the command line; empty means ``flowloop.db`` in `home`."""

    api_key: str = ""
    """Sent to a GraphQL server as a bearer token."""

    project: str = "default"
    """Project that flows are registered in."""

    heartbeat_interval: float = 30.0
    """How often a running flow run says that it is alive. Whoever runs it has it for twice as long without a sign."""

    max_lapses: int = 3
    """How often a flow run is begun by processes that end before it does; then it is Failed."""

    check_cancellation_interval: float = 15.0
    """How often a run asks for its cancellation where the backend cannot push it."""

    inline_retry_limit: float = 60.0
    """A retry or a queued run that is due within this time is waited for; a later one ends the run as not finished."""

    queue_interval: float = 30.0
    """How long a run that the backend has queued waits before it asks again, or one that a state handler holds back."""

    late_runs: str = "all"
    """Which planned runs are run whose time came more than a minute ago, while nobody was there: ``all``, the
    ``latest`` of each flow, ``none``, or ``within:3600``, those that are late for no more than so many seconds. The
    others are Skipped. What holds is the setting of the server, or of whoever has the database open."""

    cancel_grace: float = 5.0
    """How long the bodies of cancelled tasks get to clean up, and again how long final states get to be recorded."""

    outage_limit: float = 300.0
    """How long an unreachable backend is waited for before a call fails."""

    database_connections: int = 10
    """How many connections to PostgreSQL a store keeps open."""

    database_overflow: int = 10
    """How many more it may open while these are busy."""

    database_statements: int | None = None
    """How many statements each connection to PostgreSQL keeps prepared; 0 for a pooler between, which is noticed by
    itself where this is not set."""

    results: str = ""
    """Where results lie that have no place of their own: a folder, or a bucket as in ``s3://bucket/folder``, ``gs://…``
    or ``az://…``; empty means ``results`` in `home`."""

    recompute_missing: bool = False
    """Whether a task runs again whose result is gone from where it was stored, when its flow run is continued."""

    trusted_results: str = ""
    """Further places that recorded results are read from, beside those that flows name: folders, and buckets as in
    ``s3://bucket/folder``, with commas between them."""

    results_key: str = ""
    """Signs the pickles of results, which are then read only if they were signed with it."""

    secret_key: str = ""
    """What the secrets are encrypted with that a database keeps: the same in every process that uses it. Without it
    none can be kept there."""

    thread_limit: int = 64
    """How many synchronous task bodies run at once, each in a thread."""

    executor: str = ""
    """Where task bodies run of flows that have no executor of their own: ``local:8``, ``processes``, ``processes:4``,
    ``dask`` or ``dask://host:8786``; empty means the loop and threads."""

    log_level: str = "INFO"
    """Level of the ``flowloop`` logger as the command line sets it up."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the settings from environment variables.

        Args:
            - environ: where to read; the environment of the process if None

        Raises:
            - FlowloopError: if a variable cannot be read as the type of its setting
        """
        return read_settings(cls, _PREFIX, environ)

    @property
    def lease_seconds(self) -> float:
        """For how long a flow run is its runner's without a heartbeat."""
        return 2 * self.heartbeat_interval

    @property
    def default_backend_url(self) -> str:
        """The backend URL, with the embedded database where none is set."""
        return self.backend_url or f"sqlite:///{Path(self.home) / 'flowloop.db'}"

    @property
    def results_place(self) -> str:
        """Where results are stored that have no place of their own: a folder, or the URL of a bucket."""
        return self.results or os.path.join(self.home, "results")

    @property
    def results_dir(self) -> str:
        """Folder where results are stored that are files and have no place of their own."""
        return os.path.join(self.home, "results") if "://" in self.results else self.results_place
