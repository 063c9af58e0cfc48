"""The quick road for large packs comes to the same verdict as the long one, whatever stands in a pack."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.verify import Outcome, Verifier, quick
from agent.verify.quick import Quick
from tests.kits.signed import POINTS, Key, Stream, keys

KEY = Key()
SHAPE = [(f"ac.circuit.{n}.power", *POINTS[0][1:]) for n in range(40)]


def rich_pack(stream: Stream) -> bytes:
    """A pack with a bit of everything: qualities, exact decimals, a gap of one point, an event that names a counter."""
    e = stream.readings(stream.at, stream.at + 10, skip=[SHAPE[7][0]])
    for n, more in {3: {"q": "suspect"}, 4: {"q": "clock"}, 30: {"x": "1.2345678901234567"}, 50: {"mt": 3}}.items():
        e[n] |= more
    gap = {"from": stream.at, "points": [SHAPE[7][0]], "reason": "crc", "to": stream.at + 10}
    counter = {"n": SHAPE[0][0], "new": None, "old": {"t": 1, "v": "2"}}
    event = {"counters": [counter], "epoch": 3, "event": "ratio", "new": {}, "old": {}, "t": 1}
    return stream.pack(e=e, gaps=[gap], events=[event])


@cache
def base(rich: bool = False) -> tuple[str, list[bytes], bytes]:
    """Topic, the packs that come first, and the payload of the one after them."""
    stream = Stream(key=KEY, points=SHAPE)
    make = rich_pack if rich else Stream.pack
    before = [stream.make_birth(), make(stream), make(stream)]
    pack = make(stream)
    return stream.topic(), before, json.dumps(_without(pack, "sig"), sort_keys=True, separators=(",", ":")).encode()


def _without(raw: bytes, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(raw)
    del value[name]
    return value


def signed(payload: bytes) -> bytes:
    """Any bytes with a signature that holds, where canonical ones have it."""
    at = payload.rindex(b',"stream":')
    return payload[:at] + b',"sig":"' + KEY.jws(payload).encode() + b'"' + payload[at:]


def judge(raw: bytes, topic: str | None, slow: bool, rich: bool = False) -> tuple[object, ...]:
    """All that a verifier says of a pack after those before it, and whether it took the quick road."""
    _, before, _ = base(rich)
    verifier = Verifier([KEY.kid])
    taken: list[bool] = []
    read = Quick.read

    def spy(shapes: Quick, raw: bytes) -> Any:
        found = None if slow else read(shapes, raw)
        taken.append(found is not None)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Quick, "read", spy)
        verifier.feed(keys(KEY), "meterhouse/v1/park7/gw01/keys")
        for one in before:
            assert verifier.feed(one, base()[0]) is Outcome.VERIFIED
        outcome = verifier.feed(raw, topic)
    report = verifier.finish().as_dict()
    return outcome, report, taken[-1]


def the_same(payload: bytes, topic: str | None = "", rich: bool = False) -> tuple[Outcome, bool]:
    raw = signed(payload)
    where = base()[0] if topic == "" else topic
    one, two = judge(raw, where, slow=False, rich=rich), judge(raw, where, slow=True, rich=rich)
    assert one[:2] == two[:2], payload
    assert isinstance(one[0], Outcome)
    return one[0], bool(one[2])


def test_a_pack_that_differs_in_its_numbers_takes_the_quick_road() -> None:
    payload = base()[2]
    assert the_same(payload) == (Outcome.VERIFIED, True)
    assert the_same(payload, None) == (Outcome.VERIFIED, True)
    numbers = re.sub(rb'kW","v":[0-9.]+', lambda m: b'kW","v":-%d.5' % (m.start() % 977), payload)
    assert the_same(numbers) == (Outcome.VERIFIED, True)
    assert the_same(base(rich=True)[2], rich=True) == (Outcome.VERIFIED, True)


NUMBERS = ["0", "-0", "1e3", "1E+3", "1e999", "-1e999", "1e-999", "9007199254740992", "9007199254740993", "1" * 400,
           "-9007199254740993", "01", "1.", ".5", "+1", "0x10", "NaN", "Infinity", "true", "null", '"7"', "[1]", "{}",
           "1,2", "", " 1", "1 ", "1\n", "1}", "1},{", '1,"v":2', '1,"v":1', '1,"q":"suspect"', '1,"zz_":1',
           '1,"x":"1"', '1,"u":"V"', '{"v":1}', '1}],"x":[{"n":"a","v":1', "1\u00b2", "9007199254740991.5", "1e15",
           "-"]  # fmt: skip


@pytest.mark.parametrize("text", NUMBERS)
@pytest.mark.parametrize("place", [0, 1, 39, 40, 79])
def test_whatever_stands_for_a_number(text: str, place: int) -> None:
    found = list(re.finditer(rb'"v":([0-9.]+)', base()[2]))
    low, high = found[place].span(1)
    payload = base()[2]
    the_same(payload[:low] + text.encode() + payload[high:])


def swap(one: bytes, two: bytes) -> Callable[[bytes], bytes]:
    return lambda payload: payload.replace(one, b"\0").replace(two, one).replace(b"\0", two)


NINTH = b'{"n":"ac.circuit.9.power"'
OTHER = re.compile(rb'"e":(\[.*?\}\])')  # the records, to be put somewhere else
GAP = b'{"from":1795500925,"points":"*","reason":"crc","to":1795500930}'
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "names swapped": swap(b'circuit.3.power', b'circuit.4.power'),
    "a name twice": lambda p: p.replace(b"circuit.5.power", b"circuit.6.power"),
    "a foreign name": lambda p: p.replace(b"circuit.5.power", b"circuit.99.power"),
    "a record less": lambda p: re.sub(rb'\{"n":"ac.circuit.7.power","u":"kW","v":[0-9.]+\},', b"", p, count=1),
    "a record more": lambda p: re.sub(rb'(\{"n":"ac.circuit.7.power","u":"kW","v":[0-9.]+\},)', rb"\1\1", p, count=1),
    "another unit": lambda p: p.replace(b'"u":"kW"', b'"u":"W"', 3),
    "a member twice": lambda p: p.replace(b'"u":"kW","v"', b'"u":"kW","u":"kW","v"', 2),
    "a label before n": lambda p: p.replace(b'{"n":"ac.circuit.8.power"', b'{"bt":1795500941,"n":"ac.circuit.8.power"'),
    "spaces": lambda p: p.replace(b'},{"n"', b'}, {"n"', 4),
    "an escape in a name": lambda p: p.replace(b"circuit.5.power", rb"circuit.\u0035.power"),
    "a quality": lambda p: p.replace(b'"u":"kW","v":2', b'"q":"range","u":"kW","v":2', 1),
    "another base name": lambda p: p.replace(b'"bn":"park7/gw01/inv1/"', b'"bn":"park7/gw01/inv2/"'),
    "no base time": lambda p: re.sub(rb'"bt":[0-9.]+,', b"", p, count=1),
    "an early base time": lambda p: re.sub(rb'"bt":[0-9.]+', b'"bt":1795500000', p, count=1),
    "a base time that is a text": lambda p: re.sub(rb'"bt":([0-9.]+)', rb'"bt":"\1"', p, count=1),
    "e inside the clock": lambda p: p.replace(b'"clock":{', b'"clock":{"e":[{"n":"a","v":1}],'),
    "e twice": lambda p: p.replace(b'"from":', b'"e":[],"from":'),
    "e closed early": lambda p: p.replace(b'},{"n":"ac.circuit.9', b'}],"f":[{"n":"ac.circuit.9', 1),
    "a number for a record": lambda p: re.sub(rb'ac.circuit.9.power","u":"kW","v":[0-9.]+', b"7", p, count=1),
    "records elsewhere, e escaped": lambda p: OTHER.sub(rb'"E":{"e":\1},"\\u0065":[]', p, count=1),
    "records elsewhere, e with a space": lambda p: OTHER.sub(rb'"E":{"e":\1},"e" :[]', p, count=1),
    "records elsewhere, e twice": lambda p: OTHER.sub(rb'"E":{"e":\1},"e":[]', p, count=1),
    "records in a list of lists": lambda p: OTHER.sub(rb'"E":["e",\1],"e":[]', p, count=1),
    "an early base time of qualities": lambda p: re.sub(
        rb'"bt":[0-9.]+', b'"bt":1795500000', p.replace(b'"u":"kW"', b'"q":"clock","u":"kW"'), count=1
    ),
    "a base value": lambda p: p.replace(b'"bt":', b'"bv":5,"bt":', 1),
    "e nested": lambda p: p.replace(NINTH, NINTH + b',"o":[{"n":"b","v":1}]', 1),
    "an event with names": lambda p: p.replace(b'"to":', b'"events":[{"event":"x","c":[{"n":""},{"n":""}]}],"to":'),
    "gaps": lambda p: p.replace(b'"prev":', b'"gaps":[' + GAP + b'],"prev":'),
    "a table": lambda p: p.replace(b'"to":', b'"table":{"points":[]},"to":'),
    "heads": lambda p: p.replace(b'"from":', b'"heads":[],"from":'),
    "records": lambda p: p.replace(b'"prev":', b'"records":[],"prev":'),
    "another sequence": lambda p: re.sub(rb'"seq":\d+', b'"seq":77', p),
    "another prev": lambda p: re.sub(rb'"prev":"....', b'"prev":"AAAA', p),
    "another stream": lambda p: p.replace(b'"stream":"park7/gw01/inv1"', b'"stream":"park7/gw01/inv9"'),
    "another birth": lambda p: re.sub(rb'"birth":"....', b'"birth":"AAAA', p),
    "a byte that is no text": lambda p: p.replace(b"circuit.5.power", b"circuit.\xff.power"),
    "a byte order mark": lambda p: b"\xef\xbb\xbf" + p,
    "something behind": lambda p: p + b"x",
    "deep": lambda p: p.replace(b'"from":', b'"f":' + b"[" * 40 + b"]" * 40 + b',"from":'),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_is_different(name: str) -> None:
    payload = CHANGES[name](base()[2])
    assert payload != base()[2]
    the_same(payload)


@pytest.mark.parametrize("where", ["inv1/birth", "inv2/readings", "checkpoint/1", "keys", "inv1/backfill", "status"])
def test_wherever_it_is_published(where: str) -> None:
    the_same(base()[2], f"meterhouse/v1/park7/gw01/{where}")


TOKENS = [b"},{", b'},{"n":"', b'"e":[{', b"}]", b'"v":', b'"n":"', b"{", b"}", b"[", b"]", b",", b'"', b"\\", b"7",
          b"-", b'"u":"kW",', b'"bt":1,', b" ", b"\n", b"e", b'"e":[]', b"\x00", b"null", b'{"n":"a","v":1},',
          ]  # fmt: skip


def changed(seed: int, rich: bool) -> bytes:
    dice, payload = random.Random(seed), base(rich)[2]
    for _ in range(dice.randint(1, 4)):
        end = payload.rindex(b',"stream":')
        cuts = [m.start() for m in re.finditer(rb'\},\{|"e":\[|\}\]|"v":', payload[:end])]
        at = dice.choice([dice.randrange(end - 60), dice.choice([*cuts, 9])])
        cut = dice.choice([0, 0, 1, 2, 7, 40, 60, 600])
        payload = payload[:at] + dice.choice(TOKENS) + payload[min(at + cut, end) :]
    return payload


@given(st.integers(0, 10**9), st.booleans())
def test_random_changes(seed: int, rich: bool) -> None:
    the_same(changed(seed, rich), rich=rich)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(found for key, child in inner for found in places(child, (*at, key)))]


def graft(value: Any, paths: list[tuple[Any, ...]], dice: random.Random) -> None:
    """Change the object in one place: leave out, repeat, move, rename, or put something else there."""
    path = dice.choice(paths)
    holder = value
    for step in path[:-1]:
        holder = holder[step]
    other: Any = value
    for step in dice.choice(paths):
        other = other[step]
    new = dice.choice([None, True, 0, -1.5, 2**53, 1e20, "", "x", [], {}, [{"n": "a", "v": 1}], {"e": []}, other])
    match dice.randrange(4):
        case 0:
            del holder[path[-1]]
        case 1 if isinstance(holder, list):
            holder.insert(path[-1], json.loads(json.dumps(new)))
        case 2 if isinstance(holder, dict):
            name = dice.choice(["n", "u", "v", "q", "bt", "t", "e", "E", "a_", "x", "sig", "table", "heads"])
            holder[name] = json.loads(json.dumps(holder.pop(path[-1])))
        case _:
            holder[path[-1]] = json.loads(json.dumps(new))


def grafted(seed: int, rich: bool) -> bytes:
    dice, value = random.Random(seed), json.loads(base(rich)[2])
    for _ in range(dice.randint(1, 2)):
        graft(value, [path for path in places(value) if path], dice)
    value.setdefault("stream", "park7/gw01/inv1")
    value.pop("sig", None)
    text = json.dumps(value, sort_keys=dice.random() < 0.9, separators=(",", dice.choice([":", ":", ": "])))
    return (text if b',"stream":' in text.encode() else text[:-1] + ',"stream":"park7/gw01/inv1"}').encode()


@given(st.integers(0, 10**9), st.booleans())
def test_random_objects(seed: int, rich: bool) -> None:
    the_same(grafted(seed, rich), rich=rich)


def test_records_cannot_be_slipped_into_a_pack_that_was_signed_without() -> None:
    """`"e":[]` is not canonical, but may be signed: what somebody puts into it is not."""
    payload = base()[2]
    start, end = payload.index(b'"e":[') + 5, payload.index(b"}]") + 1
    empty = signed(payload[:start] + payload[end:])
    forged = empty.replace(b'"e":[]', b'"e":[' + payload[start:end] + b"]")
    one, two = judge(forged, base()[0], slow=False), judge(forged, base()[0], slow=True)
    assert one[:2] == two[:2] and one[0] is Outcome.FAILED


def test_without_the_kernel_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier's folder alone: it takes the same road for the usual pack, and comes to the same verdicts."""
    monkeypatch.setattr(quick, "fit", quick.plain_fit)
    for rich in (False, True):
        assert the_same(base(rich)[2], rich=rich) == (Outcome.VERIFIED, True)
    found = list(re.finditer(rb'"v":([0-9.]+)', base()[2]))
    for text in NUMBERS:
        low, high = found[39].span(1)
        the_same(base()[2][:low] + text.encode() + base()[2][high:])
    for change in CHANGES.values():
        the_same(change(base()[2]))


def test_memory_is_bounded_and_shapes_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of one kind share a shape; what is too much goes, oldest first."""
    shapes = Quick()

    def learn(name: str, count: int) -> bytes:
        stream = Stream(name, key=KEY, points=[(f"p.{n}", "gauge", "W", 5) for n in range(count)])
        stream.make_birth()
        raw = stream.pack()
        shapes.learn(raw, json.loads(raw))
        return raw

    kept = [learn(f"inv{n}", 50) for n in range(40)]
    assert len(shapes.shapes) == 1 and all(shapes.read(raw) for raw in kept)
    monkeypatch.setattr(quick, "MAX_BYTES", 60_000)
    more = list[bytes]()
    for n in range(30):
        more.append(learn(f"dev{n}", 50 + n))
        assert shapes.size_bytes == sum(shape.size for shape in shapes.shapes) <= 60_000
        read = [shapes.read(raw) is not None for raw in more]
        assert read == [False] * (n + 1 - sum(read)) + [True] * sum(read), "the oldest go with their streams"
    assert shapes.read(kept[0]) is None and 1 < len(shapes.shapes) == sum(read) < 30


def test_a_stream_whose_packs_change_all_the_time_is_not_learnt_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    make = quick.shape_of
    monkeypatch.setattr(quick, "shape_of", lambda raw, e: calls.append(1) or make(raw, e))  # type: ignore[func-returns-value]
    stream = Stream(key=KEY, points=SHAPE)
    verifier = Verifier([KEY.kid])
    verifier.feed(keys(KEY))
    verifier.feed(stream.make_birth(), stream.topic())
    for n in range(64):
        gap = [{"from": stream.at, "points": [SHAPE[n % 40][0]], "reason": "crc", "to": stream.at + 10}]
        e = stream.readings(stream.at, stream.at + 10, skip=[SHAPE[n % 40][0]])
        assert verifier.feed(stream.pack(e=e, gaps=gap), stream.topic()) is Outcome.VERIFIED
    assert len(calls) <= 8
    assert verifier.feed(stream.pack(), stream.topic()) is Outcome.VERIFIED
    assert verifier.finish().ok
