"""``check`` of each pack and the seams between them say what the verifier of streams says: one road, two ways to go."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import rfc8785
import zstandard

from agent.verify import (
    CheckedPack,
    KeyRing,
    PointTable,
    Refusal,
    Report,
    Verifier,
    check,
    check_checkpoint,
    check_keys,
)
from agent.verify.point_table import day_name
from agent.verify.strict import Refused
from tests.kits.mutations import mutations
from tests.kits.setwise import Judged, Object, judge
from tests.kits.signed import (
    BOOTS,
    POINTS,
    Key,
    Stream,
    b64,
    checkpoint,
    key_record,
    keys,
    keys_object,
    payload_hash,
    sign,
)
from tests.verify.corpus import CASES, KEYS_TOPIC, find_cases, in_parts

find_cases()
# pages of checkpoints that contradict each other: which of them is the late one, only their order of arrival says
BETWEEN_PAGES = {"old_checkpoint", "old_key_at_a_checkpoint", "pages_disagree", "page_replayed"}
# a keys object at another gateway's topic brings that gateway's ring to a verifier of all; here it brings nothing
SAID_OTHERWISE = {"cross_gateway": {"topic": 2}}


def verdict(objects: Sequence[tuple[str | None, bytes]], trust: Sequence[str]) -> Report:
    verifier = Verifier(trust)
    for topic, raw in objects:
        verifier.feed(raw, topic)
    return verifier.finish()


def compare(made: Judged, report: Report) -> None:
    """Packs, readings, gaps and days of each stream."""
    assert {name for name, own in report.streams.items() if own.packs} == set(made.streams)
    for name, own in made.streams.items():
        theirs = report.streams[name]
        assert (len(own.packs), own.readings, dict(own.gaps)) == (theirs.packs, theirs.readings, theirs.gap_reasons)
        days = {day_name(number): (day.due, day.got, day.gaps, day.asleep) for number, day in own.days.items()}
        kept = {name: (day.due - day.missing - day.lost, day.got, day.gaps, day.asleep)
                for name, day in theirs.days.items()}  # fmt: skip
        assert days == {name: day for name, day in kept.items() if day[0]}


@pytest.mark.parametrize("name", [name for name in CASES if name not in BETWEEN_PAGES])
def test_the_corpus_as_a_set(name: str) -> None:
    case = CASES[name]()
    made = judge([(topic, raw) for topic, raw in case.objects if topic], case.trust)
    report = verdict(case.objects, case.trust)
    assert made.failures == SAID_OTHERWISE.get(name, report.failures), [*made.refused, report.faults]
    compare(made, report)


def lived(seed: int) -> tuple[list[Object], list[Object], list[str]]:
    """A stream with restarts, parts, gaps and clock steps, and up to two kinds of damage: in order, and shuffled with
    a fifth twice."""
    rng = random.Random(seed)
    key = Key(1 + seed % 3, rng.choice(["Ed25519", "ES256"]))
    stream = Stream(key=key)
    packs = stream.run(2)
    for boot in BOOTS[1:]:
        for _ in range(rng.randint(2, 6)):
            what = rng.randrange(6)
            if what == 0:
                packs += in_parts(stream, rng.randint(2, 4))
            elif what == 1:
                packs.append(stream.gap(rng.choice([5, 60, 90_000]), rng.choice(["timeout", "asleep"])))
            elif what == 2:
                old, stream.at = stream.at, stream.at - 15
                packs.append(stream.pack(events=[{"event": "clock_step", "new": stream.at, "old": old, "t": old}]))
            else:
                packs.append(stream.pack(rng.choice([5, 10, 60])))
        if rng.random() < 0.5:
            stream.restart(boot)
            packs += stream.run(2)
    for _ in range(rng.randint(0, 2)):
        packs = rng.choice(DAMAGES)(rng, packs, stream)
    objects = [(stream.topic(), raw) for raw in packs]
    shuffled = objects + rng.sample(objects, len(objects) // 5)
    rng.shuffle(shuffled)
    announced = (KEYS_TOPIC, keys(key))
    return [announced, *objects], [announced, *shuffled], [key.kid]


Damage = Callable[[random.Random, list[bytes], Stream], list[bytes]]


def some_are_gone(rng: random.Random, packs: list[bytes], _: Stream) -> list[bytes]:
    at = rng.randrange(len(packs) - 1)
    return packs[:at] + packs[at + rng.randint(1, 2) :]


def one_is_altered(rng: random.Random, packs: list[bytes], _: Stream) -> list[bytes]:
    at = rng.randrange(len(packs))
    return [*packs[:at], packs[at].replace(b'"v":1', b'"v":7', 1), *packs[at + 1 :]]


def the_last_is_short(_: random.Random, packs: list[bytes], stream: Stream) -> list[bytes]:
    return [*packs, stream.seal({**(fields := stream.fields()), "e": fields["e"][:-1]})]


def the_last_has_another_unit(_: random.Random, packs: list[bytes], stream: Stream) -> list[bytes]:
    return [*packs, stream.pack(e=[{**record, "u": "MW"} for record in stream.fields()["e"]])]


def the_last_does_not_follow(_: random.Random, packs: list[bytes], stream: Stream) -> list[bytes]:
    return [*packs, stream.seal(stream.fields(prev=b64(b"x" * 32)))]


def the_last_names_another_birth(_: random.Random, packs: list[bytes], stream: Stream) -> list[bytes]:
    return [*packs, stream.seal(stream.fields(birth=b64(b"b" * 32)))]


def time_is_missing(_: random.Random, packs: list[bytes], stream: Stream) -> list[bytes]:
    stream.at += 35
    return [*packs, stream.pack()]


def one_is_of_another_topic(_: random.Random, packs: list[bytes], stream: Stream) -> list[bytes]:
    return [*packs, Stream("inv9", key=stream.key).make_birth()]


DAMAGES: tuple[Damage, ...] = (
    some_are_gone, one_is_altered, the_last_is_short, the_last_has_another_unit, the_last_does_not_follow,
    the_last_names_another_birth, time_is_missing, one_is_of_another_topic,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_a_shuffled_stream_as_a_set(seed: int) -> None:
    """The set says what the verifier says of the packs in order. The verifier of a shuffled stream refuses the same
    packs, too; it names what it finds first, and has counted the readings of a pack whose seam it sees only later."""
    objects, shuffled, trust = lived(seed)
    made, report = judge(shuffled, trust), verdict(objects, trust)
    refused = [refusal for refusal in made.refused if refusal.code not in ("signature", "topic")]
    assert not refused
    seen = {name: count for name, count in made.failures.items() if name not in ("signature", "topic")}
    kept = {name: count for name, count in report.failures.items() if name not in ("signature", "topic")}
    assert seen == kept, report.faults
    assert {refusal.code for refusal in made.refused} == report.failures.keys() & {"signature", "topic"}
    compare(made, report)
    assert [own.missing for own in made.streams.values()] == [
        s.missing_packs for s in report.streams.values() if s.packs
    ]
    late = verdict(shuffled, trust)
    assert (late.verdict, late.packs, late.verified) == (report.verdict, report.packs, report.verified)


@pytest.fixture
def good() -> tuple[Stream, list[bytes], KeyRing]:
    stream = Stream()
    packs = stream.run(3)
    ring = KeyRing("park7/gw01", [stream.key.kid])
    assert check_keys(keys(stream.key), KEYS_TOPIC, ring) is True
    return stream, packs, ring


def test_one_pack_says_what_it_knows(good: tuple[Stream, list[bytes], KeyRing]) -> None:
    stream, (birth, first, second), ring = good
    topic = stream.topic()
    born = check(birth, topic, ring, {}.get)
    assert isinstance(born, CheckedPack) and born.ok and born.kind == "birth" and born.table
    assert born.link.hash == payload_hash(birth) and (born.link.seq, born.link.prev) == (1, None)
    early = check(first, topic, ring, {}.get)
    assert isinstance(early, CheckedPack) and early.ok and early.balance is None and early.unjudged == "birth"
    whole = check(first, topic, ring, {born.link.hash: born.table}.get)
    assert isinstance(whole, CheckedPack) and whole.balance and whole.unjudged == ""
    assert whole.balance.due == whole.balance.got and whole.counts.readings == len(whole.value["e"])
    assert (whole.stream, whole.kind, whole.kid) == (stream.stream, "readings", stream.key.kid)
    assert (whole.link.prev, whole.link.birth) == (born.link.hash, born.link.hash)
    assert check(zstandard.compress(second), topic, ring, {}.get) == check(second, topic, ring, {}.get)
    copy = check(birth, stream.topic("birth"), ring, {}.get)
    assert isinstance(copy, CheckedPack) and copy.retained and copy.link == born.link
    found = check(first, stream.topic("birth"), ring, {}.get)
    assert isinstance(found, Refusal) and (found.code, found.wait) == ("shape", False)


def test_what_may_hold_later_says_so(good: tuple[Stream, list[bytes], KeyRing]) -> None:
    """A worker keeps a pack of an unknown key, and gives up one that is published where it does not belong."""
    stream, (birth, *_), ring = good
    early = check(birth, stream.topic(), KeyRing("park7/gw01", [stream.key.kid]), {}.get)
    assert early == Refusal("kid", early.text, True, stream.stream, stream.boot, 1)  # type: ignore[union-attr]
    turned = json.dumps(dict(reversed(json.loads(birth).items())), separators=(",", ":")).encode()
    rewritten = check(turned, stream.topic(), KeyRing("park7/gw01", [stream.key.kid]), {}.get)
    assert isinstance(rewritten, Refusal) and (rewritten.code, rewritten.wait) == ("kid", True)
    known = check(turned, stream.topic(), ring, {}.get)
    assert isinstance(known, CheckedPack) and known.rewritten and known.link == check(birth, None, ring, {}.get).link  # type: ignore[union-attr]
    theirs = Stream(gateway="park7/gw02", key=Key(5)).make_birth()
    for topic in (stream.topic(), None, "meterhouse/v1/park7/gw01/status", "x"):
        refused = check(theirs, topic, ring, {}.get)
        assert isinstance(refused, Refusal) and (refused.code, refused.wait) == ("topic", False)
    assert check_keys(keys(Key(5)), KEYS_TOPIC, ring) is not True
    assert check_keys(keys(stream.key), KEYS_TOPIC, ring) is False, "known already"


def in_other_form(raw: bytes, key: Key) -> bytes:
    """The same pack, signed over 1.20 where the canonical form has 1.2."""
    fields = json.loads(raw)
    del fields["sig"]
    payload = rfc8785.dumps(fields).replace(b'"error_ms":1.2', b'"error_ms":1.20')
    return payload.replace(b',"stream"', b',"sig":"' + key.jws(payload).encode() + b'","stream"')


def test_which_packs_are_compared_with_the_canonical_form_follows_from_their_number() -> None:
    """Whatever came before, so that a verifier, a worker and an audit of the same packs agree."""
    case = CASES["not_canonical_number"]()
    ring = KeyRing("park7/gw01", case.trust)
    (_, announced), (topic, raw) = case.objects
    check_keys(announced, KEYS_TOPIC, ring)
    pack = check(raw, topic, ring, {}.get)
    assert isinstance(pack, CheckedPack) and [fault.code for fault in pack.faults] == ["rule"], "a birth"

    stream = Stream()
    packs = [in_other_form(raw, stream.key) for raw in stream.run(70)[1:]]
    seen = []
    for raw in random.Random(17).sample(packs, len(packs)):
        pack = check(raw, stream.topic(), ring, {}.get)
        assert isinstance(pack, CheckedPack)
        if pack.faults:
            seen.append(pack.link.seq)
    assert sorted(seen) == [2, 66]


def fits_a_database(value: Any) -> bool:
    """All that a table would keep: whole numbers within 64 bits, texts of one line."""
    if isinstance(value, dict):
        return all(fits_a_database(name) and fits_a_database(inner) for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(fits_a_database, value))
    if isinstance(value, str):
        return value.isprintable() and len(value) <= 403
    return not isinstance(value, (int, float)) or -(1 << 63) <= value < 1 << 63


def kept(made: object) -> dict[str, Any]:
    """A verdict without the parsed object and the names in it."""
    names = {field.name for field in dataclasses.fields(made)} - {"value", "table", "counts"}  # type: ignore[arg-type]
    whole = {name: getattr(made, name) for name in names}
    return {name: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for name, v in whole.items()}  # type: ignore[arg-type]


def test_no_pack_raises_or_bursts_a_column(good: tuple[Stream, list[bytes], KeyRing]) -> None:
    """Each member wrong in turn, signed by the gateway's own key: a verdict or a stated refusal, in one line."""
    stream, _, ring = good
    table = PointTable({"points": [{"n": name, "kind": kind, "period": period} for name, kind, _, period in POINTS]})
    fields = stream.fields(
        gaps=[{"from": stream.at, "points": ["ac.voltage.l1"], "reason": "crc", "to": stream.at + 5}],
        events=[
            {"boot": BOOTS[0], "event": "loss", "first": 1, "from": 0, "hash": b64(b"x" * 32), "last": 2, "to": 1},
            {"event": "clock_step", "new": 1, "old": 2, "t": 1},
        ],
    )
    count = 0
    for what, value in mutations(fields):
        if not isinstance(value, dict):
            continue
        try:
            raw = sign(value, stream.key)
        except (ValueError, TypeError):  # rfc8785 cannot write it
            continue
        for tables in ({}.get, lambda _: table):
            made = check(raw, stream.topic(), ring, tables)
            assert fits_a_database(kept(made)), what
        count += 1
    assert count > 300


def test_no_keys_or_checkpoint_raise_or_burst_a_column(good: tuple[Stream, list[bytes], KeyRing]) -> None:
    stream, _, ring = good
    head = {"boot": stream.boot, "hash": stream.prev, "seq": 3, "stream": stream.stream, "to": stream.at}
    page = json.loads(checkpoint([head], stream.key))
    count = 0
    for what, value in mutations(page):
        if isinstance(value, dict) and (raw := signed_or_none(value, stream.key, "mh-checkpoint")):
            found = check_checkpoint(raw, "meterhouse/v1/park7/gw01/checkpoint/1", ring)
            assert fits_a_database(kept(found)), what
            count += 1
    for what, value in mutations(json.loads(keys(stream.key))):
        if isinstance(value, dict) and (raw := signed_or_none(value, stream.key, "mh-keys")):
            fresh = KeyRing("park7/gw01", [stream.key.kid])
            told = check_keys(raw, KEYS_TOPIC, fresh)
            assert isinstance(told, bool) or fits_a_database(kept(told)), what
            count += 1
    assert count > 300
    for since in (1e300, 2.0**60, -1e300):
        fresh = KeyRing("park7/gw01", [stream.key.kid])
        late = keys_object([key_record(stream.key, since=since)], stream.key)  # type: ignore[arg-type]
        assert isinstance(check_keys(late, KEYS_TOPIC, fresh), Refusal) and not fresh.order


def signed_or_none(value: dict[str, Any], key: Key, typ: str) -> bytes | None:
    try:
        return sign(value, key, typ)
    except (ValueError, TypeError):  # rfc8785 cannot write it
        return None


HOSTILE: tuple[Any, ...] = (
    b"", b"\xff", b"{", b"null", b"[]", b"{}", b"[" * 100_000, b'{"a":' * 100_000, b"[" * 9_000_000,
    b'{"stream":"park7/gw01/inv1","sig":"' + b"A" * 100_000 + b'"}', b'{"sig":1,"sig":2}', b'{"a":1e999}',
    b'{"a":' + b"9" * 10_000 + b"}", b'{"a":"\\ud800"}', zstandard.compress(b"[" * 8_000_000), b"\x28\xb5\x2f\xfd",
    zstandard.compress(b"{}") * 2, zstandard.compress(b"{}")[:-1], b"\x28\xb5\x2f\xfd" + bytes(2 << 20),
)  # fmt: skip


@pytest.mark.parametrize("raw", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes_are_refused_by_each_of_the_three(raw: bytes, good: tuple[Stream, list[bytes], KeyRing]) -> None:
    stream, _, ring = good
    for made in (
        check(raw, stream.topic(), ring, {}.get),
        check(raw, None, ring, {}.get),
        check_keys(raw, KEYS_TOPIC, ring),
        check_checkpoint(raw, "meterhouse/v1/park7/gw01/checkpoint/1", ring),
    ):
        assert (
            isinstance(made, Refusal)
            and made.text.isprintable()
            and not made.stream.strip("abcdefghijklmnopqrstuvwxyz/0123456789")
        )


def test_a_bomb_stops_at_a_thousand_times_its_size(good: tuple[Stream, list[bytes], KeyRing]) -> None:
    stream, (birth, *_), ring = good
    bomb = zstandard.compress(birth[:-1] + b" " * 6_000_000 + b"}")
    made = check(bomb, stream.topic(), ring, {}.get)
    assert isinstance(made, Refusal) and made.code == "size" and "1000 times its size" in made.text


def test_gateways_and_streams_have_limits_that_are_arguments() -> None:
    key, other = Key(1), Key(2)
    objects = [keys(key), keys(other, gateway="park7/gw02")]
    packs = [Stream(f"inv{n}", key=key).make_birth() for n in range(3)]
    verifier = Verifier([f"park7/gw01={key.kid}", f"park7/gw02={other.kid}"], max_gateways=1, max_streams=2)
    for raw in (*objects, *packs):
        verifier.feed(raw)
    report = verifier.finish()
    assert report.failures == {"size": 2} and len(report.streams) == 2 and list(report.trust) == ["park7/gw01"]


@pytest.mark.parametrize("pins", ["", "UDDReOZl1ipXAfp9wYsm13sDBMK5og--QWdBjzuf6o4", [""], ["x"], ["é" * 43], [None],
                                  ["gw01=" + "x" * 43], ["=" + "x" * 43], ["park7/gw01=x"]])  # fmt: skip
def test_a_pin_that_is_none_is_refused_at_once(pins: Any) -> None:
    with pytest.raises(Refused, match=r"invalid thumbprint .*43 characters|give a list") as told:
        KeyRing("park7/gw01", pins)
    assert told.value.code == "pin"


def test_without_a_pin_a_ring_says_that_nothing_is_proven(good: tuple[Stream, list[bytes], KeyRing]) -> None:
    stream = good[0]
    open_ring, pinned = KeyRing("park7/gw01", []), KeyRing("park7/gw01", [stream.key.kid])
    assert not open_ring.proven and not pinned.proven, "before any keys"
    for ring in (open_ring, pinned):
        assert check_keys(keys(stream.key), KEYS_TOPIC, ring) is True
    assert not open_ring.proven and pinned.proven
