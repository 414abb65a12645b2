"""Sending what people asked to be told of flow runs: to a webhook, to Slack, or by e-mail."""

from __future__ import annotations

import asyncio
import email.message
import logging
import smtplib
import ssl
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread
import httpx
import msgspec

from ..engine.backend import Backend
from ..engine.errors import BackendUnavailable, FlowloopError

if TYPE_CHECKING:
    from .store import Store

__all__ = ["Notifier", "Sender"]

logger = logging.getLogger("flowloop.notifications")

_PATIENCE = 10.0
"""Seconds that one message may take."""


class Sender:
    """Sends messages.

    Args:
        - smtp_url: ``smtp://user:password@host:587`` or ``smtps://host``; without it no e-mail is sent
        - mail_from: who the e-mail comes from
        - page: the URL of the live page, for a link to the flow run
        - transport: of httpx, for tests
    """

    def __init__(
        self,
        *,
        smtp_url: str = "",
        mail_from: str = "flowloop@localhost",
        page: str = "",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._smtp_url = smtp_url
        self._mail_from = mail_from
        self._page = page.rstrip("/")
        self._transport = transport

    async def send(self, note: Mapping[str, Any]) -> None:
        """Send one message.

        Args:
            - note: ``id``, ``rule``, ``kind``, ``target``, ``event``, ``message``, ``happened``, ``flow_run_id``,
                ``flow_run_name``, ``flow_name``

        Raises:
            - FlowloopError: if it could not be sent: one line that says why
        """
        try:
            with anyio.fail_after(_PATIENCE):
                if note["kind"] == "email":
                    await anyio.to_thread.run_sync(self._mail, dict(note), abandon_on_cancel=True)
                elif note["kind"] == "slack":
                    await self._post(note, {"text": self._text(note)})
                else:
                    await self._post(note, self._document(note))
        except TimeoutError:
            raise FlowloopError(f"{note['kind']}: no answer within {_PATIENCE:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, smtplib.SMTPException) as error:
            raise FlowloopError(f"{note['kind']}: {type(error).__name__}: {error}") from error

    async def _post(self, note: Mapping[str, Any], document: Mapping[str, Any]) -> None:
        async with httpx.AsyncClient(transport=self._transport, timeout=_PATIENCE) as client:
            answer = await client.post(
                note["target"],
                content=msgspec.json.encode(document),
                headers={"Content-Type": "application/json", "Idempotency-Key": note["id"]},
            )
        if answer.is_error:
            raise FlowloopError(f"{note['kind']}: it answered with status {answer.status_code}")

    def _mail(self, note: Mapping[str, Any]) -> None:
        if not self._smtp_url:
            raise FlowloopError("email: no mail server is set (FLOWLOOP_SERVER_SMTP_URL, or smtp_url of the Sender)")
        url = urllib.parse.urlsplit(self._smtp_url)
        message = email.message.EmailMessage()
        message["From"], message["To"] = self._mail_from, note["target"]
        message["Subject"] = " ".join(self._title(note).split())
        message["Message-ID"] = f"<{note['id']}@flowloop>"
        message.set_content(self._text(note))
        secure, host = url.scheme == "smtps", url.hostname or "localhost"
        kind = smtplib.SMTP_SSL if secure else smtplib.SMTP
        with kind(host, url.port or 0, timeout=_PATIENCE) as server:
            server.ehlo()
            if not secure and server.has_extn("starttls"):
                server.starttls(context=ssl.create_default_context())
            if url.username:
                server.login(urllib.parse.unquote(url.username), urllib.parse.unquote(url.password or ""))
            server.send_message(message)

    def _title(self, note: Mapping[str, Any]) -> str:
        return f"{note['flow_name']} {note['flow_run_name']}: {note['event']}"

    def _text(self, note: Mapping[str, Any]) -> str:
        link = self._link(note)
        return "\n".join(
            [self._title(note), *([note["message"]] if note["message"] else []), *([link] if link else [])]
        )

    def _link(self, note: Mapping[str, Any]) -> str | None:
        return f"{self._page}/runs/{note['flow_run_id']}" if self._page else None

    def _document(self, note: Mapping[str, Any]) -> dict[str, Any]:
        run = {"id": note["flow_run_id"], "name": note["flow_run_name"], "flow": note["flow_name"]}
        told = {"event": note["event"], "message": note["message"], "happened": note["happened"]}
        return {"id": note["id"], "rule": note["rule"], **told, "flow_run": run, "url": self._link(note)}


class Notifier:
    """Tells people of what happens to flow runs, as the rules say: in an application that has no server beside it.

    A server does it by itself. Each event is sent once; what cannot be sent is tried again, five times in about two and
    a half hours. Several of these share the work, and none of them is needed for a run to go on.

    Args:
        - backend: a backend on a database; open
        - sender: sends; the default one sends no e-mail
        - interval: seconds between two looks

    Example:

        ```python
        async with connect("sqlite:///runs.db") as backend, Notifier(backend):
            await backend.set_notification(NotificationRule("failures", "slack", url, ["Failed"]))
            ...
        ```
    """

    def __init__(self, backend: Backend | Store, sender: Sender | None = None, *, interval: float = 5.0) -> None:
        self._store: Any = getattr(backend, "store", backend)
        if not hasattr(self._store, "note_events"):
            raise FlowloopError("notifications need a database; a flowloop server sends them by itself")
        self._sender = sender or Sender()
        self._interval = interval
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="flowloop notifier")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self.once()
            except BackendUnavailable as error:
                logger.warning("nobody can be told of flow runs: %s", error)
            except Exception:
                logger.exception("telling people of flow runs failed; it goes on with the next pass")
            await anyio.sleep(self._interval)

    async def once(self) -> int:
        """Look for what has happened, send what is due, and return how much was sent."""
        from .store import ANYONE

        await self._store.note_events(ANYONE)
        due = await self._store.due_notifications(ANYONE)
        sent = 0
        for note in due:
            error = None
            try:
                await self._sender.send(note)
                sent += 1
            except FlowloopError as problem:
                error = str(problem)
                logger.warning("%r could not be told of %s: %s", note["rule"], note["event"], error)
            await self._store.note_sent(ANYONE, notification_id=note["id"], error=error)
        return sent
