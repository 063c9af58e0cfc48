"""Whatever comes: the verifier never raises, never believes altered bytes, and its memory does not grow with packs."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agent.verify import Outcome, Verifier
from agent.verify.report_text import as_text
from tests.kits.signed import BOOTS, Key, Stream, checkpoint, key_record, keys, keys_object

KEY = Key()
STREAM = Stream(key=KEY)
PACKS = STREAM.run(4)
TOPIC = STREAM.topic()
ANNOUNCED = keys(KEY)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=6,
)


def fresh() -> Verifier:
    verifier = Verifier([KEY.kid])
    verifier.feed(ANNOUNCED)
    return verifier


@given(st.data())
def test_altered_bytes_are_never_believed(data: st.DataObject) -> None:
    raw = bytearray(PACKS[1])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["flip", "drop", "add", "swap"])):
            case "flip":
                raw[at] ^= 1 << data.draw(st.integers(0, 7))
            case "drop":
                del raw[at : at + data.draw(st.integers(1, 5))]
            case "add":
                raw[at:at] = data.draw(st.sampled_from([b" ", b"0", b'"', b",", b"\\u0061", b'"v":1,', b"\xff", b"\n"]))
            case _:
                other = data.draw(st.integers(0, len(raw) - 1))
                raw[at], raw[other] = raw[other], raw[at]
    verifier = fresh()
    verifier.feed(PACKS[0], TOPIC)
    outcome = verifier.feed(bytes(raw), TOPIC)
    if outcome is Outcome.VERIFIED:  # only what says the same in other bytes
        assert rfc8785.dumps(json.loads(bytes(raw))) == PACKS[1]
    else:
        assert outcome in (Outcome.FAILED, Outcome.HELD)
        assert not verifier.finish().ok


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(found for key, child in inner for found in places(child, (*at, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value, or without it (new is ...)."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1 and new is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def signed_with_change(data: st.DataObject, raw: bytes, typ: str) -> bytes | None:
    fields = json.loads(raw)
    del fields["sig"]
    path = data.draw(st.sampled_from([p for p in places(fields) if p]))
    fields = changed(fields, path, data.draw(st.just(...) | JSON))
    try:
        payload = rfc8785.dumps(fields)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        return None
    return rfc8785.dumps({**fields, "sig": KEY.jws(payload, typ)})


@given(st.data())
def test_signed_nonsense_never_raises(data: st.DataObject) -> None:
    """The key holder may be broken too: anything may stand anywhere, properly signed."""
    which = data.draw(st.integers(0, 2))
    event = {"boot": BOOTS[0], "event": "loss", "first": 7, "from": 1, "hash": "x" * 43, "last": 8, "t": 1, "to": 2}
    stream = Stream(key=KEY)
    packs = [
        stream.make_birth(),
        stream.pack(part=[1, 1], events=[event, {"event": "clock_step", "new": 1, "old": 2, "t": 3}]),
        stream.gap(10),
    ]
    bad = signed_with_change(data, packs[which], "mh-pack")
    if bad is None:
        return
    verifier = fresh()
    for n, raw in enumerate(packs):
        verifier.feed(
            bad if n == which else raw, data.draw(st.sampled_from([TOPIC, None, TOPIC.replace("readings", "birth")]))
        )
    verifier.finish().as_dict()


@given(st.data())
def test_nonsense_in_keys_and_checkpoints_never_raises(data: st.DataObject) -> None:
    head = {"boot": BOOTS[0], "hash": "x" * 43, "seq": 3, "stream": STREAM.stream, "to": 5}
    revoking = key_record(Key(2), KEY, revokes=[{"kid": KEY.kid, "last": {STREAM.stream: 3}}])
    object_, typ = data.draw(
        st.sampled_from(
            [
                (ANNOUNCED, "mh-keys"),
                (keys_object([key_record(KEY), revoking], Key(2)), "mh-keys"),
                (checkpoint([head], KEY), "mh-checkpoint"),
            ]
        )
    )
    bad = signed_with_change(data, object_, typ)
    if bad is None:
        return
    kind = {"mh-keys": "keys", "mh-checkpoint": "checkpoint/1"}[typ]
    for verifier in (fresh(), Verifier()):
        if data.draw(st.booleans()):
            verifier.new_file()
            verifier.feed(object_)
            verifier.new_file()
        for raw in PACKS[: data.draw(st.integers(0, len(PACKS)))]:
            verifier.feed(raw, TOPIC)
        verifier.feed(bad, data.draw(st.sampled_from([f"meterhouse/v1/park7/gw01/{kind}", None])))
        for raw in PACKS:
            verifier.feed(raw, TOPIC)
        as_text(verifier.finish())
        verifier.report().as_dict()


@given(JSON, st.sampled_from(["keys", "checkpoint/1", "inv1/readings", "inv1/birth", "x", "a/b/c/d", ""]))
def test_unsigned_nonsense_never_raises(value: Any, leaf: str) -> None:
    verifier = fresh()
    raw = json.dumps(value).encode()
    outcome = verifier.feed(raw, f"meterhouse/v1/park7/gw01/{leaf}")
    assert outcome in (Outcome.FAILED, Outcome.IGNORED, Outcome.HELD)
    verifier.feed(raw)
    verifier.finish()


@given(st.permutations(range(12)), st.lists(st.integers(0, 11), max_size=6))
def test_any_order_gives_the_same_verdict(order: list[int], again: list[int]) -> None:
    """Births after their packs, restarts before what was before them, parts apart: all comes together in the end."""
    assert len(DELIVERY) == 12
    verifier = fresh()
    for n in [*order, *again]:
        verifier.feed(DELIVERY[n], TOPIC)
    report = verifier.finish()
    s = report.streams[STREAM.stream]
    assert report.ok, report.as_dict()
    assert (report.packs, report.redelivered, s.gaps, s.unchecked) == (12, len(again), SUM_GAPS, 0)
    assert report.readings == SUM_READINGS
    assert sum(day.due for day in s.days.values()) == sum(day.got + day.gaps for day in s.days.values())


def delivery() -> list[bytes]:
    from tests.verify.corpus import in_parts

    stream = Stream(key=KEY)
    packs = [*stream.run(3), stream.gap(10), *in_parts(stream)]
    stream.restart(BOOTS[1])
    packs += [stream.make_birth(), stream.gap(60, "stopped"), stream.pack(5)]
    return [*packs, *stream.run(2)]


DELIVERY = delivery()
SUM_READINGS = sum(len(json.loads(raw).get("e", ())) for raw in DELIVERY)
SUM_GAPS = 4 + 24 + 1


def test_memory_does_not_grow_with_the_number_of_packs() -> None:
    """A verifier that runs for days keeps an entry a stretch and a few hashes, never packs."""
    verifier = fresh()
    stream = Stream(key=KEY, points=[("ac.power.active", "gauge", "W", 5)])

    def more(count: int) -> None:
        for raw in stream.run(count, 5):
            assert verifier.feed(raw) is Outcome.VERIFIED

    tracemalloc.start()
    try:
        more(500)
        before, _ = tracemalloc.get_traced_memory()
        more(500)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 12_000, "a hash in 64 packs at most"
    assert verifier.finish().ok
