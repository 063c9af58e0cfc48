"""Frames and requests: what is none is refused in words, whatever the bytes."""

from __future__ import annotations

import json
import random
from importlib import import_module
from typing import Any, get_args

import pytest

from agent.service.control.frames import (
    HEADER,
    MAX_REQUEST,
    FrameKind,
    ProtocolError,
    decode_error,
    decode_facts,
    encode_error,
    parse_header,
)
from agent.service.control.peer import Right
from agent.service.control.protocol import (
    Day,
    Declare,
    Export,
    Keys,
    Lease,
    PeriodReport,
    Request,
    decode_request,
    encode_request,
    kind_of,
)
from drivers.model import GatewayError, LineLent, UsageError, clean_text

SAMPLES: list[Request] = [
    Export(from_ms=1, to_ms=2, streams=["inv1"]),
    PeriodReport(period="month", now_ms=1_795_500_000_000, day="2026-11-01"),
    Day(now_ms=1_795_500_000_000, day="2026-11-01", streams=["inv1"], unless="5b", after_change=0),
    Declare(n="declared.x", v="4", u="MWh", who="Li Wei", from_=1.0, to=2.0),
    Keys(kid="k" * 43, until_ms=5, before=["a" * 43], hold=True),
    Lease(line="roof", purpose="scan", seconds=900),
]


def payload(request: Request) -> bytes:
    return encode_request(request)[HEADER.size :]


@pytest.mark.parametrize("request_", SAMPLES, ids=kind_of)
def test_a_request_comes_back_as_it_was(request_: Request) -> None:
    assert decode_request(payload(request_)) == request_
    kind, size = parse_header(encode_request(request_)[: HEADER.size], frozenset({FrameKind.REQUEST}), MAX_REQUEST)
    assert (kind, size) == (FrameKind.REQUEST, len(payload(request_)))


def test_what_an_older_agent_does_not_know_is_not_sent_to_it() -> None:
    """It refuses members that it does not know: a report without conditions has none of them."""
    sent = json.loads(payload(PeriodReport(period="day", now_ms=5)))
    assert sent.keys() <= {"kind", "version", "period", "day", "now_ms", "by"}


def test_who_may_what() -> None:
    """Looking is export, report, days, intervals and what was declared; everything else changes something."""
    rights = {kind_of_type(kind): kind.right for kind in get_args(Request)}
    look = {"export", "intervals", "report", "day", "days", "birth", "pack", "declarations", "key"}
    assert {name for name, right in rights.items() if right is Right.LOOK} == look
    changes = {"check_store", "declare", "handover", "keys", "lease", "reload"}
    assert {name for name, right in rights.items() if right is Right.CHANGE} == changes
    for kind in get_args(Request):
        assert callable(import_module(kind.module).answer)


def kind_of_type(kind: Any) -> str:
    return str(kind.__struct_config__.tag)


BAD = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "half": b'{"kind":"export","from_ms":1',
    "not utf-8": b'{"kind":"lease","line":"\xff\xfe","purpose":"read"}',
    "a lone surrogate": b'{"kind":"lease","line":"\\ud800","purpose":"read"}',
    "NaN": b'{"kind":"lease","line":"a","purpose":"read","seconds":NaN}',
    "for ever": b'{"kind":"lease","line":"a","purpose":"read","seconds":1e300}',
    "for nothing": b'{"kind":"lease","line":"a","purpose":"read","seconds":0}',
    "more than fifteen minutes": b'{"kind":"lease","line":"a","purpose":"read","seconds":901}',
    "free text as a purpose": b'{"kind":"lease","line":"a","purpose":"\\u001b[2J"}',
    "huge numbers": b'{"kind":"export","from_ms":0,"to_ms":1' + b"0" * 400 + b"}",
    "no stretch": b'{"kind":"export","from_ms":5,"to_ms":5}',
    "fractions": b'{"kind":"export","from_ms":0.5,"to_ms":5}',
    "true for one": b'{"kind":"export","from_ms":true,"to_ms":5}',
    "an unknown kind": b'{"kind":"tea"}',
    "no kind": b'{"from_ms":1,"to_ms":5}',
    "an unknown member": b'{"kind":"reload","force":true}',
    "a name that the kernel says": b'{"kind":"reload","by":{"uid":0}}',
    "another version": b'{"version":2,"kind":"reload"}',
    "many streams": b'{"kind":"export","from_ms":0,"to_ms":5,"streams":[' + b'"a",' * 1000 + b'"a"]}',
    "deep lists": b"[" * 60_000,
    "deep objects": b'{"a":' * 12_000,
    "deep before the kind": b'{"x":' + b"[" * 60_000,
    "garbage after it": b'{"kind":"reload"}}',
    "two": b'{"kind":"reload"}{"kind":"reload"}',
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_request_is_refused_in_words(what: str) -> None:
    with pytest.raises(ProtocolError, match=r"Do the agent and this command have the same version") as caught:
        decode_request(BAD[what])
    assert clean_text(str(caught.value), 1000) == str(caught.value), "safe to show"


def test_a_header_is_bounded() -> None:
    kinds = frozenset({FrameKind.REQUEST})
    for data, says in (
        (b"\x02\0\0\0\0", "kind 2"),
        (b"\x09\0\0\0\0", "kind 9"),
        (b"\x01\xff\xff\xff\xff", "4294967295"),
    ):
        with pytest.raises(ProtocolError, match=says):
            parse_header(data, kinds, MAX_REQUEST)


def test_errors_keep_their_kind_and_lose_what_a_terminal_would_obey() -> None:
    for error in (UsageError("a", where="b", hint="c"), LineLent("a", where="b"), GatewayError("a", where="b")):
        back = decode_error(encode_error(error))
        assert type(back) is type(error) and str(back) == str(error)
    back = decode_error(encode_error(GatewayError("\x1b[2J\nroot# ", where="\u202eb", hint="x" * 5000)))
    assert "\x1b" not in str(back) and "\n" not in str(back) and len(str(back)) < 3000
    for data in (b"[]", b"7", b"\xff", b"{" * 9000, b"[" * 9000, b'{"a":' * 9000):
        with pytest.raises(ProtocolError):
            decode_facts(data)


def test_20000_random_and_mutated_requests_raise_nothing_else() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    choose = random.Random(seed)
    good = [payload(one) for one in SAMPLES]
    for _ in range(20_000):
        if choose.random() < 0.2:
            data = choose.randbytes(choose.randrange(200))
        else:
            data = mutated(choose, choose.choice(good))
        try:
            found = decode_request(data)
        except ProtocolError as error:
            assert str(error)
        else:
            assert isinstance(found, get_args(Request))


def mutated(choose: random.Random, data: bytes) -> bytes:
    """Some bytes of it changed, cut out, doubled or put in."""
    out = bytearray(data)
    for _ in range(choose.randrange(1, 4)):
        at, what = choose.randrange(len(out) + 1), choose.randrange(5)
        if what == 0 and at < len(out):
            out[at] = choose.randrange(256)
        elif what == 1:
            del out[at : at + choose.randrange(8)]
        elif what == 2:
            out[at:at] = choose.choice(
                (b'"', b"{", b"}", b"[", b"\\u", b"\0", b"9" * 50, b"e999", b"null", b"\xf0\x9f")
            )
        elif what == 3:
            out[at:at] = out[at : at + choose.randrange(30)]
        else:
            out[at:at] = choose.randbytes(choose.randrange(4))
    return bytes(out)


@pytest.mark.parametrize("now_ms", [-1, 1 << 52, 7_258_000_000_001])
def test_a_report_of_a_time_without_a_date_is_no_request(now_ms: int) -> None:
    with pytest.raises(ProtocolError, match="now_ms"):
        decode_request(f'{{"kind":"report","period":"day","now_ms":{now_ms}}}'.encode())
