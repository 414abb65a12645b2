"""What is read of the documents of states."""

from __future__ import annotations

import msgspec
import pytest

from flowloop.backends.store import rules
from flowloop.backends.store.rules import read_head, same_state
from flowloop.engine.lifecycle import LIFECYCLE


@pytest.mark.parametrize("kind", LIFECYCLE)
def test_every_state_of_the_dialect_is_read(kind: str) -> None:
    head, text = read_head(b'{"type":"%s","message":"m"}' % kind.encode())
    assert (head.type, head.message, text) == (kind, "m", f'{{"type":"{kind}","message":"m"}}')


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (b"", "malformed"),
        (b"null", "malformed"),
        (b"[]", "malformed"),
        (b"{}", "type"),
        (b'{"type":"Success"', "malformed"),
        (b'{"type":"Success"} {}', "malformed"),
        (b'{"type":"Sucess"}', "'Sucess'"),
        (b'{"type":7}', "malformed"),
        (b'{"type":"Success","message":7}', "malformed"),
        (b'{"type":"Success","_result":null}', "_result"),
        (b'{"type":"Scheduled","start_time":"soon"}', "malformed"),
        (b'{"type":"Success","x":"\xff"}', "malformed"),
        (b'{"type":"Success","message":"\\ud800"}', "malformed"),
        (b'{"type":"Success","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed"),
        (b'{"type":"Success","x":"' + b"x" * 1_000_000 + b'"}', "too large"),
    ],
)
def test_what_is_no_state_is_refused(document: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_head(document)


def test_a_state_of_a_million_bytes_is_not_too_large() -> None:
    document = b'{"type":"Success","x":"%s"}'
    read_head(document % (b"x" * (rules.STATE_LIMIT - len(document) + 2)))


@pytest.mark.parametrize(
    ("inputs", "has"),
    [("{}", False), ("{ }", False), ("null", False), ('{"x":{"type":"PrefectResult"}}', True)],
)
def test_whether_a_state_has_cached_inputs(inputs: str, has: bool) -> None:
    head, _ = read_head(f'{{"type":"Success","cached_inputs":{inputs}}}'.encode())
    assert bool(head.cached_inputs) is has
    assert not read_head(b'{"type":"Success"}')[0].cached_inputs


@pytest.mark.parametrize(
    ("sent", "recorded", "same"),
    [
        ('{"type":"A","x":1}', '{"type":"A","x":1}', True),
        ('{"x":1, "type":"A"}', '{"type":"A","x":1}', True),
        ('{"type":"A"}', '{"type":"A","cached_inputs":{"x":1}}', True),
        ('{"type":"A","cached_inputs":{}}', '{"type":"A","cached_inputs":{"x":1}}', True),
        ('{"type":"A","cached_inputs":{"x":2}}', '{"type":"A","cached_inputs":{"x":1}}', False),
        ('{"type":"A","x":1}', '{"type":"A","x":2}', False),
    ],
)
def test_when_a_state_is_the_recorded_one(sent: str, recorded: str, same: bool) -> None:
    assert same_state(sent, recorded) is same


def test_a_message_is_stored_without_nul() -> None:
    head, text = read_head(msgspec.json.encode({"type": "Failed", "message": "a\x00b"}))
    assert head.message == "a\ufffdb"
    assert "\\u0000" in text
