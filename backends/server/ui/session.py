"""Signing in: an API key is typed once, and a cookie that no script can read stands for it."""

from __future__ import annotations

import time
from collections import OrderedDict, deque

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ....engine.errors import BackendError
from ..auth import COOKIE, Authenticator, is_same_origin

__all__ = ["Sessions"]

_LIFE = 12 * 3_600
_FAILURES = 10
_FAILURES_WITHIN = 60.0
_ADDRESSES = 1_000
_LONGEST = 4_096


class _SignIn(msgspec.Struct):
    """What signs in: a key, or without one the session that is to last longer; and the path the cookie is for."""

    key: str | None = None
    path: str = "/"


class Sessions:
    """Opens and closes sessions.

    Args:
        - authenticator: tells whose a key is
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    async def open(self, request: Request) -> Response:
        """Answer ``POST ui/session``: check a key, and set a cookie that stands for it."""
        if not is_same_origin(request.headers, self._authenticator.allowed_origins, needed=True):
            return _refusal(403, "A session is opened by the page of this server only.")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _refusal(415, "The body must be JSON: send Content-Type: application/json.")
        address = request.client.host if request.client else ""
        if self._is_locked(address):
            return _refusal(429, "Too many keys that were wrong: wait a minute.")
        try:
            body = await request.body()
            given = msgspec.json.decode(body if len(body) <= _LONGEST else b"", type=_SignIn)
        except msgspec.MsgspecError:
            return _refusal(400, "Send the API key as key.")
        key = given.key.strip() if given.key else request.cookies.get(COOKIE, "")
        try:
            session = await self._authenticator.open_session(key, _LIFE, renew=given.key is None)
        except BackendError as error:
            return _refusal(503, str(error))
        if session is None:
            self._note_failure(address)
            return _refusal(401, "There is no such API key, or it has expired.")
        answer = Response(b'{"signed_in": true}', media_type="application/json")
        path = given.path if given.path.startswith("/") and ";" not in given.path and given.path.isascii() else "/"
        secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https:")
        answer.set_cookie(COOKIE, session, max_age=_LIFE, path=path, secure=secure, httponly=True, samesite="strict")
        return answer

    async def close(self, request: Request) -> Response:
        """Answer ``DELETE ui/session``: forget the session, here and in the browser."""
        if not is_same_origin(request.headers, self._authenticator.allowed_origins, needed=True):
            return _refusal(403, "A session is closed by the page of this server only.")
        await self._authenticator.close_session(request.cookies.get(COOKIE, ""))
        answer = Response(b'{"signed_in": false}', media_type="application/json")
        path = request.query_params.get("path", "/")
        answer.delete_cookie(COOKIE, path=path if path.startswith("/") and ";" not in path else "/")
        return answer

    # -- guessing ------------------------------------------------------------------------------------------

    def _is_locked(self, address: str) -> bool:
        failures = self._failures.get(address, ())
        return sum(time.monotonic() - at < _FAILURES_WITHIN for at in failures) >= _FAILURES

    def _note_failure(self, address: str) -> None:
        self._failures.setdefault(address, deque(maxlen=_FAILURES)).append(time.monotonic())
        self._failures.move_to_end(address)
        if len(self._failures) > _ADDRESSES:
            self._failures.popitem(last=False)


def _refusal(status: int, message: str) -> Response:
    body = msgspec.json.encode({"errors": [{"message": message}]})
    return Response(body, status, media_type="application/json")
