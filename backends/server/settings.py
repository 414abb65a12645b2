"""What can be set of the server, with the values it has when nothing is set."""

from __future__ import annotations

import msgspec

__all__ = ["ServerSettings"]


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The limits and the services of a server. Times are in seconds, sizes in bytes."""

    require_api_key: bool | None = None
    """Whether a request must carry an API key. None: it must, except where `serve` listens on loopback."""

    metrics_open: bool = False
    """Whether ``GET /metrics`` is answered without an API key where requests must carry one."""

    page: bool = True
    """Whether the live page is served, below ``ui/``."""

    page_frame_ancestors: str = "'none'"
    """Which pages may show the live page in a frame, in the words of a Content-Security-Policy."""

    allowed_origins: str = ""
    """Further origins whose pages may use the server from a browser, with blanks between them: for a proxy that
    changes the Host header."""

    body_limit: int = 5_000_000
    """The longest request body."""

    header_seconds: float = 10.0
    """How long the head of a request may take to arrive, from the moment it can begin."""

    body_seconds: float = 60.0
    """How long the body of a request may take to arrive."""

    connection_limit: int = 20_000
    """How many connections there may be at once, files permitting; who opens one more is told to try again."""

    depth_limit: int = 12
    """How deep the selections of a query may nest."""

    field_limit: int = 1_000
    """How many fields a document may select, fragments and aliases expanded."""

    token_limit: int = 20_000
    """How many tokens a document may have."""

    row_limit: int = 50_000
    """How many rows one request may read, over all its levels; a query that needs more is refused."""

    answer_limit: int = 64_000_000
    """How many bytes of documents and text one request may read."""

    query_seconds: float = 30.0
    """How long the statements that read what one field selects may take."""

    document_cache: int = 512
    """How many parsed and validated documents are kept."""

    key_cache_seconds: float = 5.0
    """How long a checked API key is taken for valid before it is looked up again."""

    subscriber_limit: int = 1_000
    """How many subscriptions there may be at once."""

    queue_size: int = 1_000
    """How many changes wait for a slow subscription; with more, it is told of the newest state of each run only."""

    poll_seconds: float = 0.5
    """How often subscribed runs are asked for changes that another server process has made."""

    scheduler: bool = True
    """Whether runs of flows with an active schedule are created."""

    scheduler_seconds: float = 150.0
    """How often the scheduler looks for runs to create."""

    zombie_killer: bool = True
    """Whether task runs without a heartbeat are retried or failed."""

    zombie_killer_seconds: float = 120.0
    """How often the zombie killer looks for task runs without a heartbeat."""

    lazarus: bool = True
    """Whether flow runs that nobody runs any more are scheduled again."""

    lazarus_seconds: float = 600.0
    """How often Lazarus looks for flow runs that nobody runs."""

    notifications: bool = True
    """Whether people are told of flow runs, as the rules say."""

    notifications_seconds: float = 5.0
    """How often it is looked for what people are to be told of."""

    smtp_url: str = ""
    """The server that sends e-mail: ``smtp://user:password@host:587`` or ``smtps://host``. Without it none is sent."""

    mail_from: str = "flowloop@localhost"
    """Who e-mail comes from."""

    page_url: str = ""
    """The URL of the live page as people reach it, for links to flow runs: ``https://flows.example.org/ui``."""

    retention: bool = True
    """Whether runs older than `retention_days`, and keys and records past their time, are deleted."""

    retention_seconds: float = 3_600.0
    """How often old records are deleted."""

    retention_days: float | None = None
    """How long finished runs are kept; None means for ever."""

    shutdown_seconds: float = 10.0
    """How long a stopping server goes on with the requests it has begun."""
