"""Attacks that try to exhaust a verifier: messages and files by strangers, and objects signed with a known key.

Each is at most 1 MiB as it is sent. ``python -m bench.hostile`` measures the seconds and megabytes that all of them
cost. The tests check the causes of these costs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache

import zstandard

from tests.kits.signed import POINTS, START, Key, Stream, checkpoint, key_record, keys, keys_object, sign

OWNER, STRANGER = Key(1), Key(9)
BASE = "meterhouse/v1/park7/gw01/"
READINGS = BASE + "inv1/readings"
MIB = 1 << 20


@dataclass(frozen=True)
class Attack:
    """First the valid ``objects``, then ``raw``: as a message on ``topic``, or as a file with the name ``file``."""

    raw: bytes
    topic: str = READINGS
    file: str = ""
    objects: Sequence[tuple[str, bytes]] = ()
    trust: tuple[str, ...] = (OWNER.kid,)


ATTACKS: dict[str, Callable[[], Attack]] = {}


def attack(function: Callable[[], Attack]) -> Callable[[], Attack]:
    ATTACKS[function.__name__.replace("_", " ")] = function
    return function


def pack(raw: bytes) -> bytes:
    """A zstd frame that does not state its size."""
    made = zstandard.ZstdCompressor(level=1 if len(raw) > 64 * MIB else 3, write_content_size=False).compress(raw)
    assert len(made) <= MIB
    return made


def plain(value: object) -> bytes:
    """Canonical JSON, made quickly. Only for ASCII texts and whole numbers."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@cache
def _stream() -> tuple[Stream, tuple[tuple[str, bytes], ...]]:
    made = Stream(key=OWNER, points=[(f"ac.circuit.{n}.power", *POINTS[0][1:]) for n in range(40)])
    return made, ((BASE + "keys", keys(OWNER)), *((made.topic(), raw) for raw in made.run(3)))


def stream() -> tuple[Stream, list[tuple[str, bytes]]]:
    """A stream that the verifier knows, with packs that the fast path accepts by shape."""
    made, objects = _stream()
    return copy(made), list(objects)


def body(inner: bytes, key: Key | None = None, size: int = MIB) -> bytes:
    """A pack of inv1 with ``inner`` in place of readings. With ``key``, it has a signature by it, of other bytes."""
    sig = b',"sig":"' + key.jws(b"{}").encode() + b'"' if key else b""
    tail = b',"seq":3' + sig + b',"stream":"park7/gw01/inv1","to":1795500930,"v":1}'
    head = b'{"boot":"3f2a9c41d07be815","e":'
    return (head + inner + tail)[: size + len(tail)]


def many(one: bytes, size: int = MIB - 2048, last: bytes = b"0") -> bytes:
    return b"[" + one * (size // len(one)) + last + b"]"


FILLINGS: dict[str, bytes] = {
    "lists": b"[],", "dicts": b"{},", "objects": b'{"a":1},', "floats": b"1.5,", "exponents": b"1e5,",
    "integers": b"1,",
    "texts": b'"",', "escapes": b'"\\u0061",', "astral texts": '"\U0001f600",'.encode(), "nulls": b"null,",
    "long integers": b"9" * 4000 + b",", "records": b'{"n":"a","u":"kW","v":1.5},', "nested": b"[[[[[[]]]]]],",
    "not utf-8": b'"\xff\xfe",',
}  # fmt: skip


def _filled(name: str, filling: bytes) -> None:
    ATTACKS[f"{name}, unsigned"] = lambda: Attack(body(many(filling)), objects=stream()[1])
    ATTACKS[f"{name}, a stranger's key"] = lambda: Attack(body(many(filling), STRANGER), objects=stream()[1])
    ATTACKS[f"{name}, a known key, another signature"] = lambda: Attack(body(many(filling), OWNER), objects=stream()[1])
    large = 8 * MIB - 4096
    ATTACKS[f"{name}, 8 MiB in zstd, unsigned"] = lambda: Attack(
        pack(body(many(filling, large), None, 8 * MIB)), objects=stream()[1]
    )
    ATTACKS[f"{name}, 8 MiB in zstd, a known key"] = lambda: Attack(
        pack(body(many(filling, large), OWNER, 8 * MIB)), objects=stream()[1]
    )
    ATTACKS[f"{name}, as a keys object"] = lambda: Attack(
        sign({"counter": 2, "gateway": "park7/gw01", "records": [], "v": 1}, OWNER, "mh-keys").replace(
            b'"records":[]', b'"records":' + many(filling)
        ),
        BASE + "keys",
        objects=stream()[1],
    )
    ATTACKS[f"{name}, a file"] = lambda: Attack(body(many(filling), OWNER), file="a.json", objects=stream()[1])
    line = body(many(filling, 60_000), OWNER, 64_000) + b"\n"
    ATTACKS[f"{name}, a file of lines of 60 KB"] = lambda: Attack(
        line * (MIB // len(line)), file="a.jsonl", objects=stream()[1]
    )
    small = body(many(filling, max(600, len(filling))), OWNER, 8000) + b"\n"
    ATTACKS[f"{name}, a file of lines of 1 KB"] = lambda: Attack(
        small * (MIB // len(small)), file="births.jsonl", objects=stream()[1]
    )


for _name, _filling in FILLINGS.items():
    _filled(_name, _filling)


@attack
def deep() -> Attack:
    return Attack(b"[" * MIB, objects=stream()[1])


@attack
def deep_objects() -> Attack:
    return Attack(b'{"a":' * (MIB // 5), objects=stream()[1])


@attack
def names_all_different() -> Attack:
    return Attack(b"{" + b",".join(b'"%x":1' % n for n in range(90_000)) + b"}", objects=stream()[1])


@attack
def names_twice() -> Attack:
    inner = b",".join(b'"%x":1' % n for n in range(60_000))
    return Attack(b'{"a\\n":' + b"{" + inner + b',"7":2}}', objects=stream()[1])


@attack
def spaces() -> Attack:
    return Attack(b"{" + b" " * (MIB - 10) + b"}", objects=stream()[1])


@attack
def a_gigabyte_of_nothing() -> Attack:
    return Attack(pack(bytes(1 << 30)), objects=stream()[1])


@attack
def frames_without_end() -> Attack:
    frame = zstandard.compress(b"")
    return Attack(frame * (MIB // len(frame)), objects=stream()[1])


@attack
def a_frame_that_lies_of_its_size() -> Attack:
    """Its header states 200 bytes, but it has a megabyte."""
    honest = bytearray(zstandard.ZstdCompressor(level=19).compress(b" " * MIB))
    assert honest[4] >> 6 == 2 and honest[4] & 32, "four bytes of content size"
    honest[5:9] = (200).to_bytes(4, "little")
    return Attack(bytes(honest), objects=stream()[1])


@attack
def signatures_without_end() -> Attack:
    one = b',"sig":"' + OWNER.jws(b"{}").encode() + b'"'
    return Attack(b'{"a":1' + one * (MIB // len(one)) + b"}", objects=stream()[1])


@attack
def a_signature_without_end() -> Attack:
    return Attack(b'{"a":1,"sig":"' + b"A" * (MIB - 100) + b'"}', objects=stream()[1])


@attack
def a_stream_name_without_end() -> Attack:
    return Attack(b'{"a":1,"stream":"' + b"\xff" * (MIB - 100) + b'"}', objects=stream()[1])


@attack
def much_around_the_records_of_a_known_stream() -> Attack:
    made, before = stream()
    good = made.pack()
    return Attack(good.replace(b'"from":', b'"f":' + many(b"[],") + b',"from":')[:MIB], objects=before)


@attack
def numbers_without_end_in_a_known_stream() -> Attack:
    made, before = stream()
    good = made.pack()
    at = good.rindex(b'"v":', 0, good.rindex(b"}]")) + 4
    return Attack(good[:at] + b"1" * (MIB - len(good)) + good[at:], objects=before)


@attack
def cuts_without_end_in_a_known_stream() -> Attack:
    made, before = stream()
    good = made.pack()
    at = good.index(b'},{"n":"')
    return Attack(good[:at] + b'},{"n":"' * ((MIB - len(good)) // 8) + good[at:], objects=before)


def chain(count: int) -> bytes:
    """A chain of keys by a stranger, each signed by the one before."""
    made = [Key(10), *(Key(n, "ES256") for n in range(2, count + 1))]
    records = [key_record(key, made[n - 1] if n else None, START + n) for n, key in enumerate(made)]
    return keys_object(records, made[-1], START, "park9/gw99")


@attack
def a_stranger_with_a_thousand_keys() -> Attack:
    return Attack(chain(1000), "meterhouse/v1/park9/gw99/keys", objects=stream()[1])


@attack
def a_stranger_with_a_thousand_keys_and_nothing_pinned() -> Attack:
    return Attack(chain(1000), "meterhouse/v1/park9/gw99/keys", objects=stream()[1], trust=())


# --- files


def file_of(line: bytes, name: str = "a.jsonl") -> Attack:
    return Attack(line * (MIB // len(line)), file=name, objects=stream()[1])


@attack
def a_file_of_copies_of_the_keys() -> Attack:
    return file_of(keys(OWNER) + b"\n")


@attack
def copies_of_the_keys_in_zstd() -> Attack:
    return Attack(pack((keys(OWNER) + b"\n") * (80 * MIB // 740)), file="a.jsonl.zst", objects=stream()[1])


@attack
def copies_of_a_birth_in_zstd() -> Attack:
    return Attack(pack((stream()[1][1][1] + b"\n") * 40_000), file="births.jsonl.zst", objects=stream()[1])


@attack
def copies_of_a_pack_that_was_written_anew_in_zstd() -> Attack:
    line = json.dumps(json.loads(stream()[1][1][1])).encode() + b"\n"
    return Attack(pack(line * 40_000), file="a.jsonl.zst", objects=stream()[1])


@attack
def a_file_of_newlines() -> Attack:
    return file_of(b"\n")


@attack
def a_file_of_newlines_in_zstd() -> Attack:
    return Attack(pack(b"\n" * (512 << 20)), file="a.jsonl.zst", objects=stream()[1])


@attack
def a_file_of_one_line_in_zstd() -> Attack:
    return Attack(pack(b"x" * (1 << 30)), file="a.jsonl.zst", objects=stream()[1])


@attack
def a_file_of_empty_objects() -> Attack:
    return file_of(b"{}\n")


@attack
def a_file_of_empty_objects_in_zstd() -> Attack:
    return Attack(pack(b"{}\n" * (256 << 18)), file="a.jsonl.zst", objects=stream()[1])


@attack
def a_file_of_a_strangers_packs() -> Attack:
    made = Stream(key=STRANGER, gateway="park9/gw99")
    return Attack(b"\n".join(made.run(1300))[:MIB], file="a.jsonl", objects=stream()[1])


@attack
def a_file_of_a_strangers_packs_in_zstd() -> Attack:
    made = Stream(key=STRANGER, gateway="park9/gw99")
    return Attack(pack(b"\n".join(made.run(10)) * 20_000), file="a.jsonl.zst", objects=stream()[1])


@attack
def a_file_of_strangers_keys() -> Attack:
    lines = [keys(Key(n % 200 + 20), gateway=f"park9/gw{n}") for n in range(1300)]
    return Attack(b"\n".join(lines)[:MIB], file="keys.jsonl", objects=stream()[1])


@attack
def a_file_of_strangers_keys_and_nothing_pinned() -> Attack:
    lines = [keys(Key(n % 200 + 20), gateway=f"park9/gw{n}") for n in range(1300)]
    return Attack(b"\n".join(lines)[:MIB], file="keys.jsonl", objects=stream()[1], trust=())


@attack
def a_file_of_altered_packs() -> Attack:
    made, before = stream()
    line = made.pack().replace(b'"v":2', b'"v":9') + b"\n"
    return Attack(line * (MIB // len(line)), file="a.jsonl", objects=before)


# --- by a gateway whose key is good


@attack
def by_a_known_key_gaps_times_points() -> Attack:
    points = [(f"p.{n}", "gauge", "W", 1) for n in range(2000)]
    made = Stream("inv2", OWNER, points=points)
    before = [(BASE + "keys", keys(OWNER)), (made.topic(), made.make_birth())]
    made.points = ()  # no readings
    hole = [{"from": made.at + n, "points": "*", "reason": "crc", "to": made.at + n + 1} for n in range(4000)]
    return Attack(made.pack(4000, gaps=plain(hole)), made.topic(), objects=before)


@attack
def by_a_known_key_gaps_over_ages() -> Attack:
    made = Stream("inv2", OWNER, points=[(f"p.{n}", "gauge", "W", 1 << 40) for n in range(50)])
    before = [(BASE + "keys", keys(OWNER)), (made.topic(), made.make_birth())]
    made.points = ()  # no readings
    long = 4000 * 86_400
    hole = [{"from": made.at + n, "points": "*", "reason": "crc", "to": made.at + long} for n in range(10_000)]
    return Attack(made.pack(long, gaps=plain(hole)), made.topic(), objects=before)


@attack
def by_a_known_key_periods_without_end() -> Attack:
    made = Stream("inv2", OWNER, points=[(f"p.{n}", "gauge", "W", n + 1) for n in range(4000)])
    return Attack(made.make_birth(), made.topic(), objects=[(BASE + "keys", keys(OWNER))])


@attack
def by_a_known_key_a_birth_of_17000_points() -> Attack:
    made = Stream("inv2", OWNER, points=[(f"p.{n}", "gauge", "W", 1) for n in range(17_000)])
    return Attack(pack(made.make_birth()), made.topic(), objects=[(BASE + "keys", keys(OWNER))])


@attack
def by_a_known_key_8_mib_of_text() -> Attack:
    made = Stream("inv2", OWNER)
    fields = made.fields(0, table={"points": [], "x": "\U0001f600" * (2 * MIB - 2048)}, birth=None, e=None)
    return Attack(pack(made.seal(fields)), made.topic(), objects=[(BASE + "keys", keys(OWNER))])


@attack
def by_a_known_key_all_brackets_that_are_read() -> Attack:
    made = Stream("inv2", OWNER)
    fields = made.fields(0, table=plain({"points": [], "x": [[]] * 130_000}), birth=None, e=None)
    return Attack(made.seal(fields), made.topic(), objects=[(BASE + "keys", keys(OWNER))])


@attack
def by_a_known_key_all_names_that_are_read() -> Attack:
    made = Stream("inv2", OWNER)
    names = {f"\n{n:x}": 1 for n in range(70_000)}
    fields = made.fields(0, table=plain({"points": [], "x": names}), birth=None, e=None)
    return Attack(made.seal(fields), made.topic(), objects=[(BASE + "keys", keys(OWNER))])


@attack
def by_a_known_key_a_page_of_heads() -> Attack:
    heads = [
        {"boot": "3f2a9c41d07be815", "hash": "A" * 43, "seq": 7, "stream": f"park7/gw01/s{n}", "to": START}
        for n in range(7000)
    ]
    return Attack(checkpoint(heads, OWNER), BASE + "checkpoint/1", objects=[(BASE + "keys", keys(OWNER))])


@attack
def by_a_known_key_clock_steps_without_end() -> Attack:
    made = Stream("inv2", OWNER)
    before = [(BASE + "keys", keys(OWNER)), (made.topic(), made.make_birth())]
    steps = [{"event": "clock_step", "new": START + n, "old": START, "t": START} for n in range(12_000)]
    return Attack(made.pack(events=plain(steps)), made.topic(), objects=before)


@attack
def by_a_known_key_records_without_end() -> Attack:
    made = Stream("inv2", OWNER, points=[])
    first = {"bn": made.stream + "/", "bt": START, "n": "a", "v": 1}
    e = [first, *({"n": f"p.{n:x}", "v": n} for n in range(86_000))]
    before = [(BASE + "keys", keys(OWNER)), (made.topic(), made.make_birth())]
    return Attack(pack(made.pack(e=plain(e))), made.topic(), objects=before)


@attack
def by_a_known_key_records_of_a_birth_that_is_not_here() -> Attack:
    made = Stream("inv2", OWNER, points=[])
    first = {"bn": made.stream + "/", "bt": START, "n": "a", "v": 1}
    e = [first, *({"n": f"p.{n:x}", "u": "W", "v": n} for n in range(65_000))]
    made.make_birth()
    return Attack(pack(made.pack(e=plain(e))), made.topic(), objects=[(BASE + "keys", keys(OWNER))])


@attack
def by_a_known_key_events_without_end() -> Attack:
    made = Stream("inv2", OWNER)
    before = [(BASE + "keys", keys(OWNER)), (made.topic(), made.make_birth())]
    counters = [{"n": "a", "new": {"t": 1, "v": "1"}, "old": None}] * 24_000
    event = {"counters": counters, "epoch": 1, "event": "ratio", "new": {}, "old": {}, "t": START}
    return Attack(made.pack(events=plain([event])), made.topic(), objects=before)
