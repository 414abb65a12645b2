"""Requests over HTTP."""

from __future__ import annotations

from typing import Any

from ..engine.task import task

__all__ = ["http_request"]


@task(name="http request")
async def http_request(url: str, method: str = "GET", timeout: float = 30.0, **options: Any) -> Any:
    """Make a request, and return the answer: of JSON the document, else the text.

    Args:
        - url: the URL
        - method: the method
        - timeout: seconds for each step of the request
        - options: as for ``httpx.AsyncClient.request``: ``json``, ``params``, ``headers``, ``data`` …

    Raises:
        - httpx.HTTPError: for an answer that is an error, and for none
    """
    import httpx

    async with httpx.AsyncClient(timeout=timeout, follow_redirects=True) as client:
        answer = await client.request(method, url, **options)
        answer.raise_for_status()
    is_json = answer.headers.get("content-type", "").partition(";")[0].endswith("json")
    return answer.json() if is_json else answer.text
