"""E-mail."""

from __future__ import annotations

import smtplib
from collections.abc import Sequence
from email.message import EmailMessage

from ..engine.task import task

__all__ = ["send_mail"]


@task(name="send mail")
def send_mail(
    to: str | Sequence[str],
    subject: str,
    text: str,
    *,
    sender: str,
    host: str = "localhost",
    port: int = 0,
    user: str | None = None,
    password: str | None = None,
    tls: bool = True,
    html: str | None = None,
) -> None:
    """Send an e-mail through an SMTP server.

    Args:
        - to: an address, or several
        - subject, text: what it says
        - sender: the address it comes from
        - host, port: the server; the port of SMTP if 0
        - user, password: how to log in, if at all
        - tls: whether to encrypt with STARTTLS before logging in
        - html: the same as `text`, as HTML
    """
    message = EmailMessage()
    message["To"] = to if isinstance(to, str) else ", ".join(to)
    message["From"], message["Subject"] = sender, subject
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    with smtplib.SMTP(host, port, timeout=60) as server:
        if tls:
            server.starttls()
        if user is not None:
            server.login(user, password or "")
        server.send_message(message)
