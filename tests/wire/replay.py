"""Replaying recorded conversations of the real client against the server.

Ids and times are the server's own: an id of an answer is learnt where the recording has one, and put into
the requests that follow. Everything else has to be equal.
"""

from __future__ import annotations

import datetime
import gzip
import re
from pathlib import Path
from typing import Any

import httpx
import msgspec

TRANSCRIPTS = Path(__file__).parent / "transcripts"
START = datetime.datetime(2021, 7, 1, 12, tzinfo=datetime.UTC)

_ID = re.compile(r"000000[0-9]{2}-0000-4000-8000-[0-9]{12}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?")


class Clock:
    """The time of the recording."""

    def __init__(self) -> None:
        self.elapsed = 0.0

    def now(self) -> datetime.datetime:
        return START + datetime.timedelta(seconds=self.elapsed)


def index() -> dict[str, dict[str, Any]]:
    """Return what is known of each recording, by its name."""
    entries = msgspec.json.decode((TRANSCRIPTS / "INDEX.json").read_bytes())
    return {entry["scenario"]: entry for entry in entries}


def exchanges(scenario: str) -> list[dict[str, Any]]:
    """Return the requests and answers of a recording, in order."""
    text = gzip.decompress((TRANSCRIPTS / f"{scenario}.jsonl.gz").read_bytes())
    return [msgspec.json.decode(line) for line in text.splitlines()]


class Replay:
    """One recording while it is replayed.

    Args:
        - client: sends the requests
        - clock: the clock of the server
    """

    def __init__(self, client: httpx.AsyncClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self.ids: dict[str, str] = {}

    def learn(self, recorded: str, actual: str) -> None:
        """Note which id stands for a recorded one."""
        known = self.ids.setdefault(recorded, actual)
        assert known == actual, f"{recorded} was {known} and is now {actual}"

    def own(self, text: str) -> str:
        """Return a recorded text with the ids of this server."""
        return _ID.sub(lambda found: self.ids.get(found.group(), found.group()), text)

    def recorded(self, text: str) -> str:
        """Return a text of this server with the ids of the recording."""
        for recorded, actual in self.ids.items():
            text = text.replace(actual, recorded)
        return text

    def unknown(self, exchange: dict[str, Any]) -> list[tuple[int, int]]:
        """Return what the ids stand for that a request has and no answer had: a kind of row, and its number."""
        found = _ID.findall(msgspec.json.encode(exchange["request"]).decode())
        return sorted({(int(item[6:8]), int(item[-12:])) for item in found if item not in self.ids})

    async def send(self, exchange: dict[str, Any]) -> tuple[int, Any]:
        """Send a recorded request, at its time, and return the status and the body of the answer."""
        self._clock.elapsed = exchange["t"]
        request = exchange["request"]
        answer = await self._client.request(
            request["method"],
            request["path"],
            content=self.own(msgspec.json.encode(request["body"]).decode()).encode(),
            headers={name: self.own(value) for name, value in request["headers"].items()},
        )
        return answer.status_code, msgspec.json.decode(answer.content)

    def differences(self, expected: Any, actual: Any, path: str = "answer") -> list[str]:
        """Return where an answer is not the recorded one, and learn the ids that are new in it."""
        if isinstance(expected, dict) and isinstance(actual, dict):
            if set(expected) != set(actual):
                return [f"{path}: {sorted(expected)} expected, {sorted(actual)} found"]
            if set(expected) == {"line", "column"}:
                return []  # the recorder gave every error the same place
            below = [(key, expected[key], actual[key]) for key in expected]
        elif isinstance(expected, list) and isinstance(actual, list):
            if len(expected) != len(actual):
                return [f"{path}: {len(expected)} items expected, {len(actual)} found"]
            below = [(str(place), *pair) for place, pair in enumerate(zip(expected, actual, strict=True))]
        elif isinstance(expected, str) and isinstance(actual, str):
            return self._text_differences(expected, actual, path)
        else:
            same = expected == actual and type(expected) is type(actual)
            return [] if same else [f"{path}: {expected!r}, not {actual!r}"]
        return [line for key, left, right in below for line in self.differences(left, right, f"{path}.{key}")]

    def _text_differences(self, expected: str, actual: str, path: str) -> list[str]:
        if _ID.fullmatch(expected):
            self.learn(expected, actual)
            return []
        if expected.startswith("made-up-name-") or expected == "API_KEY_2":
            self.ids[expected] = actual
            return []
        if _MOMENT.fullmatch(expected) and _MOMENT.fullmatch(actual):
            return []
        return [] if expected == self.recorded(actual) else [f"{path}: {expected!r}, not {actual!r}"]
