"""A verifier cannot be worn out: what is parsed, decompressed and compared is bounded before it is done.

Seconds and megabytes are the bench's (``python -m bench.hostile``); here are their causes.
"""

from __future__ import annotations

import dataclasses
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.verify import verify
from agent.verify import Outcome, Report, Verifier, files, jws, keyring, strict
from agent.verify import stream as stream_module
from agent.verify.files import FREE_BYTES, MAX_REJECTED, read_paths
from agent.verify.point_table import DAY_MS, MAX_DAYS, Gap, PointTable, by_day
from agent.verify.report_text import as_text
from agent.verify.stream import MAX_REASONS
from agent.verify.strict import MAX_ITEMS, MAX_LOOSE_ITEMS, MAX_PACK_BYTES, Refused, inflate
from tests.kits.hostile import ATTACKS, BASE, MIB, OWNER, READINGS, STRANGER, Attack, body, chain, many, stream
from tests.kits.signed import POINTS, START, Key, Stream, b64, key_record, keys, keys_object, sign
from tests.verify.corpus import in_parts

KEYS = BASE + "keys"


class Work:
    """What was done for one attack."""

    def __init__(self) -> None:
        self.parsed = self.largest = 0  # brackets and commas
        self.inflated = 0  # bytes

    def clear(self) -> None:
        self.parsed = self.largest = self.inflated = 0


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    done = Work()

    decode = json.JSONDecoder.decode

    def counted(decoder: json.JSONDecoder, text: str) -> Any:
        items = sum(map(text.count, "[{,"))
        done.parsed, done.largest = done.parsed + items, max(done.largest, items)
        return decode(decoder, text)

    feed = strict.Frames.feed

    def count(frames: strict.Frames, step: bytes) -> bytes:
        plain = feed(frames, step)
        done.inflated += len(plain)
        return plain

    monkeypatch.setattr(json.JSONDecoder, "decode", counted)
    monkeypatch.setattr(strict.Frames, "feed", count)
    jws.read_header.cache_clear()
    return done


def run(made: Attack, folder: Path, work: Work) -> Report:
    """The verdict; ``work`` has what the attack alone has cost."""
    verifier = Verifier(made.trust)
    for topic, good in made.objects:
        verifier.feed(good, topic)
    work.clear()
    if made.file:
        (folder / made.file).write_bytes(made.raw)
        read_paths(verifier, [folder])
    else:
        verifier.feed(made.raw, made.topic)
    report = verifier.finish()
    as_text(report)
    return report


SLOW = ("8 MiB", "thousand", "17000", "in zstd", "gigabyte", "strangers", "periods", "copies")  # the bench has them
QUICK = [name for name in ATTACKS if not any(word in name for word in SLOW)]


@pytest.mark.parametrize("name", [name for name in QUICK if "known key" not in name or "another signature" in name])
def test_what_strangers_send_is_parsed_within_bounds(name: str, work: Work, tmp_path: Path) -> None:
    made = ATTACKS[name]()
    report = run(made, tmp_path, work)
    assert not report.ok and len(made.raw) <= MIB
    assert work.largest <= MAX_LOOSE_ITEMS
    assert work.parsed <= 2 * (MAX_REJECTED + MAX_LOOSE_ITEMS), "a file: twice where names must be looked at closer"


@pytest.mark.parametrize("name", [name for name in QUICK if name.startswith("by a known key")])
def test_what_a_good_key_signs_is_bounded_too(name: str, work: Work, tmp_path: Path) -> None:
    run(ATTACKS[name](), tmp_path, work)
    assert work.largest <= MAX_ITEMS


@pytest.mark.parametrize("whose", ["unsigned", "a known key"])
@pytest.mark.parametrize("name", ["lists", "exponents", "escapes"])
def test_800_bytes_of_zstd_are_not_parsed(name: str, whose: str, work: Work, tmp_path: Path) -> None:
    """They cost seconds and hundreds of megabytes, from whoever may publish on one topic."""
    report = run(ATTACKS[f"{name}, 8 MiB in zstd, {whose}"](), tmp_path, work)
    assert report.failures == {"size": 1} and "1000 times its size" in report.faults[0].reason
    assert work.largest < 100 and work.inflated <= MAX_PACK_BYTES + (8 << 20)


def test_8_mib_that_name_a_known_key_are_looked_at_and_not_parsed(work: Work, tmp_path: Path) -> None:
    made = ATTACKS["lists, 8 MiB in zstd, a known key"]()
    plain = dataclasses.replace(made, raw=zstandard.ZstdDecompressor().decompressobj().decompress(made.raw))
    report = run(plain, tmp_path, work)
    assert report.failures == {"signature": 1} and "too many to canonicalise" in report.faults[0].reason
    assert work.largest < 100, "the header of the signature"


def test_what_an_unknown_key_has_signed_is_never_parsed(work: Work) -> None:
    """It waits for its key as it came, and is refused unread at the end."""
    verifier = Verifier([OWNER.kid])
    for topic, good in stream()[1]:
        verifier.feed(good, topic)
    work.clear()
    raw = body(many(b"[],"), STRANGER)
    for _ in range(30):
        assert verifier.feed(raw, READINGS) is Outcome.HELD
    report = verifier.finish()
    assert report.failures == {"kid": 30} and work.parsed < 100
    fault = report.faults[0]
    assert (fault.stream, fault.boot, fault.seq) == ("park7/gw01/inv1", "3f2a9c41d07be815", 3), "as its bytes say"


@pytest.mark.parametrize("name", ["births.jsonl", "a.jsonl"])
def test_copies_of_what_is_good_are_known_by_their_bytes(name: str, work: Work, tmp_path: Path) -> None:
    """6 KB of zstd with one keys object a hundred thousand times cost half a minute."""
    made = Stream("inv1", OWNER)
    once = [keys(OWNER), made.make_birth(), made.gap(10), json.dumps(json.loads(made.gap(10))).encode()]
    once = once[:2] if name == "births.jsonl" else once
    (tmp_path / name).write_bytes(b"\n".join(once))
    verifier = Verifier([OWNER.kid])
    read_paths(verifier, [tmp_path])
    first, parsed = verifier.finish(), work.parsed
    work.clear()
    (tmp_path / name).write_bytes(b"\n".join(once * 500))
    verifier = Verifier([OWNER.kid])
    read_paths(verifier, [tmp_path])
    report = verifier.finish()
    assert work.parsed <= parsed
    assert (report.verdict, report.packs, report.readings) == (first.verdict, first.packs, first.readings)
    copies = 499 * len(once[1:]) if name == "a.jsonl" else 0
    assert report.redelivered == first.redelivered + copies


def test_a_copy_is_judged_anew_after_its_key_was_revoked() -> None:
    verifier = Verifier([OWNER.kid])
    made = Stream("inv1", OWNER)
    birth, pack = made.make_birth(), made.gap(10)
    for raw in (keys(OWNER), birth, pack):
        verifier.feed(raw)
    assert verifier.feed(pack) is Outcome.REDELIVERED
    cut = [{"kid": OWNER.kid, "last": {made.stream: 1}}]
    records = [key_record(OWNER, None, START), key_record(STRANGER, OWNER, START + 1, revokes=cut)]
    assert verifier.feed(keys_object(records, STRANGER, 2)) is Outcome.TAKEN
    assert verifier.feed(pack) is Outcome.FAILED


def large_birth(count: int) -> tuple[Stream, bytes]:
    made = Stream("bms", OWNER, points=[(f"battery.cell.{n}.voltage", *POINTS[1][1:]) for n in range(count)])
    return made, made.make_birth()


def test_a_large_birth_waits_unparsed_for_its_key_and_is_read_then(work: Work) -> None:
    made, birth = large_birth(5000)
    assert strict.count_items(birth) > MAX_LOOSE_ITEMS
    verifier = Verifier([OWNER.kid])
    assert verifier.feed(birth, made.topic()) is Outcome.HELD and work.parsed < 100
    assert verifier.feed(keys(OWNER), KEYS) is Outcome.TAKEN
    assert verifier.feed(made.gap(10), made.topic()) is Outcome.VERIFIED
    assert verifier.finish().ok and work.largest > MAX_LOOSE_ITEMS


def test_what_a_bridge_has_written_anew_still_holds_within_its_bound() -> None:
    """Only what stands there as it was signed may be larger."""
    verifier = Verifier([OWNER.kid])
    verifier.feed(keys(OWNER), KEYS)
    made, birth = large_birth(1000)
    assert verifier.feed(json.dumps(json.loads(birth)).encode(), made.topic()) is Outcome.VERIFIED
    other, large = large_birth(5000)
    assert verifier.feed(json.dumps(json.loads(large)).encode(), other.topic()) is Outcome.FAILED
    report = verifier.finish()
    assert report.failures == {"size": 1} and report.streams[made.stream].rewritten == 1


# --- faults without end


def faulty_packs() -> list[bytes]:
    """Three of four packs break a rule, begin at a wrong time or both; ticks in parts, of which one breaks a rule."""
    made = Stream()
    packs = [made.make_birth()]
    for n in range(80):
        made.at += 5 * (n % 4 // 2)  # not where the pack before ended
        if n % 8 == 5:
            parts = in_parts(made)
            packs += parts
            continue
        packs.append(made.pack(5, **({"clock": {}} if n % 2 else {})))
    return packs


@pytest.mark.parametrize("seed", range(6))
def test_counts_stay_right_after_more_faulty_packs_than_are_noted(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every further one counted as verified and its readings as read; with two faults it counted twice."""
    packs = faulty_packs()
    random.Random(seed).shuffle(packs) if seed else None

    def judged() -> tuple[list[Outcome], dict[str, Any]]:
        verifier = Verifier([OWNER.kid])
        verifier.feed(keys(OWNER))
        return [verifier.feed(raw) for raw in packs], verifier.finish().as_dict()

    monkeypatch.setattr(stream_module, "MAX_FAULTY", 10**6)
    outcomes, report = judged()
    monkeypatch.setattr(stream_module, "MAX_FAULTY", 4)
    assert judged() == (outcomes, report)
    assert report["failed"] == report["packs"] - report["verified"] > 40
    assert seed or outcomes.count(Outcome.FAILED) == report["failed"]


# --- packs that wait


def wide(made: Stream, **more: Any) -> bytes:
    """A pack that is valid until its birth is known."""
    return made.gap(10, "x", zz="y" * 1000, **more)


def test_packs_that_wait_for_their_birth_are_bounded_in_bytes_for_all_streams_of_a_gateway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """256 of 8 MiB each could wait in each stream; another gateway waits at its own expense."""
    monkeypatch.setattr(stream_module, "MAX_WAITING_BYTES", 20_000)
    other = Stream("inv1", STRANGER, gateway="park7/gw02")
    streams = [Stream("inv1", OWNER), Stream("inv2", OWNER), other]
    verifier = Verifier([f"park7/gw01={OWNER.kid}", f"park7/gw02={STRANGER.kid}"])
    verifier.feed(keys(OWNER))
    verifier.feed(keys(STRANGER, gateway="park7/gw02"))
    births = [made.make_birth() for made in streams]
    for made in streams:
        for _ in range(12):
            assert verifier.feed(raw := wide(made)) is Outcome.VERIFIED
    for made, birth in zip(streams, births, strict=True):
        assert verifier.feed(birth, made.topic("birth")) is Outcome.TAKEN
    unchecked = [verifier.report().streams[made.stream].unchecked for made in streams]
    assert unchecked == [0, 24 - 20_000 // len(raw), 0] and unchecked[1] > 8


def test_parts_that_wait_for_the_others_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,096 parts of 64 ticks; what was given up leaves room for the next, and a whole tick gives its room back."""
    monkeypatch.setattr(stream_module, "MAX_WAITING_BYTES", 20_000)
    made, verifier = Stream("inv1", OWNER), Verifier([OWNER.kid])
    verifier.feed(keys(OWNER))
    verifier.feed(made.make_birth())
    for _ in range(30):
        for raw in in_parts(made):
            assert verifier.feed(raw) is Outcome.VERIFIED
    assert verifier.report().streams[made.stream].unchecked == 0
    start = made.at
    for n in range(100):
        made.at = start
        assert verifier.feed(wide(made, part=[n + 1, 4096])) is Outcome.VERIFIED
    made.seq, made.prev = made.seq + 4000, b64(b"x" * 32)  # the other parts never come
    for raw in in_parts(made):
        assert verifier.feed(raw) is Outcome.VERIFIED
    report = verifier.report().streams[made.stream]
    assert report.unchecked == 100 and report.readings == 31 * 2 + 3  # two gauges each tick, a counter each minute


# --- zstd


def test_a_frame_that_lies_of_its_size_gives_no_more_than_it_may(work: Work, tmp_path: Path) -> None:
    """Neither where its header states less than comes, nor where it states nothing."""
    made = ATTACKS["a frame that lies of its size"]()
    assert zstandard.get_frame_parameters(made.raw).content_size == 200
    assert run(made, tmp_path, work).failures == {"zstd": 1} and work.inflated <= MIB
    with pytest.raises(Refused, match="more than 100000 bytes"):
        inflate(zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 24)), 100_000)
    assert work.inflated <= MIB + (16 << 20)


@pytest.mark.parametrize(
    "line", [b"\n", b"{}\n", b"x", b"[" * 999 + b"\n"], ids=["empty", "objects", "endless", "deep"]
)
def test_a_file_is_not_read_on_where_it_holds_nothing(line: bytes, work: Work, tmp_path: Path) -> None:
    """6 KB became 200 MiB of newlines, and 23 seconds."""
    raw = zstandard.compress(line * ((200 << 20) // len(line)))
    report = run(Attack(raw, file="a.jsonl.zst", objects=stream()[1]), tmp_path, work)
    assert len(raw) < 60_000 and report.failures["size"] and "the rest is not read" in str(report.reasons)
    assert work.inflated <= 120 << 20 and work.parsed <= 2 * MAX_REJECTED
    assert report.failed < MAX_REJECTED / 50


def test_good_packs_are_not_lost_for_bad_ones_between(tmp_path: Path) -> None:
    """A file with thousands of bad lines is read to its end, as long as something in it holds now and then."""
    made = Stream()
    lines = [keys(Key())]
    for raw in made.run(30):
        lines += [raw, *[b'{"stream":"park7/gw01/inv1","seq":1}'] * 200]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    verifier = Verifier([Key().kid])
    read_paths(verifier, [tmp_path])
    report = verifier.finish()
    assert report.packs == 30 and report.failures == {"signature": 6000}


def foreign_keys(count: int) -> list[bytes]:
    return [keys(Key(n % 200 + 20), gateway=f"park9/gw{n}") for n in range(count)]


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_keys_of_strangers_do_not_end_a_file(kind: str, tmp_path: Path) -> None:
    """The own keys and packs after six hundred of them were not read."""
    lines = [*foreign_keys(1300), keys(OWNER), *Stream("inv1", OWNER).run(4)]
    verifier = Verifier([f"park7/gw01={OWNER.kid}"])
    if kind == "file":
        (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
        read_paths(verifier, [tmp_path])
    else:
        files.read_stream(verifier, io.BytesIO(b"\n".join(lines)), "stdin")
    report = verifier.finish()
    assert report.verified == report.packs == 4 and set(report.failures) == {"key-chain"}, report.reasons
    unread = 1300 - report.failures["key-chain"]
    said = f"objects or files that were not read: {unread} (one file has too many `keys` objects"
    assert unread > 700 and said in str(report.reasons)


def test_without_pins_many_keys_do_not_end_a_file(tmp_path: Path) -> None:
    """Keys of hundreds of gateways in one file; those beyond the limit are counted in the reasons."""
    made = Stream("inv1", OWNER)
    lines = [keys(OWNER), *foreign_keys(1300), *made.run(4), *foreign_keys(20)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    verifier = Verifier()
    read_paths(verifier, [tmp_path])
    report = verifier.finish()
    assert report.verified == 4 and not report.failed and report.verdict.value == "incomplete", report.reasons
    unread = 1301 - len(report.trust)
    said = f"objects or files that were not read: {unread} (one file has too many `keys`"
    assert unread > 600 and report.reasons[0].startswith(said)


@pytest.mark.parametrize("trust", [(), (OWNER.kid,)])
def test_keys_that_are_not_read_cost_little_and_end_a_file_at_last(
    trust: tuple[str, ...], work: Work, tmp_path: Path
) -> None:
    """A gigabyte of copies of keys in a megabyte of zstd: they are not parsed, and not read for ever."""
    large = [chain(40).replace(b"gw99", b"gw%02d" % n) for n in range(10, 90)]
    raw = zstandard.compress(b"\n".join([*foreign_keys(700), *large * 400]))
    report = run(Attack(raw, file="a.jsonl.zst", objects=stream()[1], trust=trust), tmp_path, work)
    assert len(raw) < MIB and work.parsed <= 2 * (MAX_REJECTED + MAX_LOOSE_ITEMS)
    assert not report.ok and report.failures["size"] == 1 and "the rest is not read" in str(report.reasons)


def test_a_pipe_is_bounded_as_a_file_is() -> None:
    done = CliRunner().invoke(verify, ["-", "--trust", OWNER.kid, "--json"], input=b"{}\n" * 200_000)
    facts = json.loads(done.output)
    assert done.exit_code == 6 and facts["failed"] < 2000 and facts["failures"]["size"] == 1


def test_a_file_gives_at_most_a_thousand_times_itself(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One good pack, again and again: it is never a fault, but the file is too good to be true."""
    monkeypatch.setattr(files, "FREE_BYTES", MIB)
    _, before = stream()
    raw = zstandard.compress((before[-1][1] + b"\n") * 4000, 19)
    report = run(Attack(raw, file="a.jsonl.zst", objects=before), tmp_path, work)
    assert report.failures == {"size": 1} and "more than 1000 times" in report.faults[0].reason
    assert work.inflated <= FREE_BYTES


# --- gaps


def test_star_gaps_are_merged_and_not_multiplied_by_points(work: Work, tmp_path: Path) -> None:
    """4,000 gaps times 2,000 points; they were gone through one by one."""
    report = run(ATTACKS["by a known key gaps times points"](), tmp_path, work)
    assert report.ok and report.gaps == 4000 * 2000


def test_gaps_that_no_pack_needs_are_a_fault(work: Work, tmp_path: Path) -> None:
    report = run(ATTACKS["by a known key gaps over ages"](), tmp_path, work)
    assert report.failures == {"due": 1} and "10000 gaps, too many" in report.faults[0].reason


def test_gap_reasons_without_end_are_counted_together() -> None:
    """Each pack gave the report another member; all readings in gaps still count, and a usual reason by its name."""
    made, verifier = Stream(), Verifier([OWNER.kid])
    for raw in (keys(OWNER), made.make_birth(), made.gap(5, "timeout"), *(made.gap(5, f"r{n}") for n in range(300))):
        verifier.feed(raw)
    verifier.feed(made.gap(60, "timeout"))
    verifier.feed(made.gap(60, "asleep"))
    report = verifier.finish().streams[made.stream]
    reasons = report.gap_reasons
    assert len(reasons) == MAX_REASONS + 1 and sum(reasons.values()) == report.gaps > 600
    assert reasons["timeout"] > 25 and report.asleep == 25 and reasons["others"] > 400


def test_other_lists_without_end_are_refused(work: Work, tmp_path: Path) -> None:
    for name, said in (
        ("clock steps without end", "more than 100 clock steps"),
        ("periods without end", "more than 256 different periods"),
        ("a page of heads", "at most 1000 entries"),
    ):
        report = run(ATTACKS[f"by a known key {name}"](), tmp_path, work)
        assert report.failures == {"shape": 1} and said in report.faults[0].reason


SPAN = st.tuples(*(st.integers(low, 200).map(lambda n: n * 1_234_567) for low in (0, 1)))
GAPS = st.lists(
    st.tuples(SPAN, st.sampled_from([None, ("a",), ("a", "b"), ("c",)]), st.sampled_from(["crc", "asleep"])), max_size=6
)


def table_of(periods: list[int]) -> PointTable:
    names = "abcdef"
    points = [{"kind": "gauge", "n": names[n], "period": period, "phase": n} for n, period in enumerate(periods)]
    return PointTable({"points": points})


@given(st.lists(st.sampled_from([3600, 7200, 86_400, 100_000]), min_size=3, max_size=6), GAPS, SPAN)
def test_gaps_come_out_as_if_counted_one_by_one(periods: list[int], gaps: list[Any], span: tuple[int, int]) -> None:
    """Merged by grid, and dealt over the days that they touch: the same numbers as tick by tick."""
    made, (low, size) = table_of(periods), span
    high = low + size
    cut = [
        Gap(max(low, at), min(high, at + long), points, reason)
        for (at, long), points, reason in gaps
        if max(low, at) < min(high, at + long)
    ]
    due_at = {
        name: [t for t in range(-(-(low - phase) // period) * period + phase, high, period)]
        for period, phase, names in made.grids
        for name in names
    }

    def inside(gap: Gap, name: str) -> list[int]:
        is_in = gap.points is None or name in gap.points
        return [t for t in due_at[name] if is_in and gap.from_ms <= t < gap.to_ms]

    want: dict[str, int] = {}
    for gap in cut:
        want[gap.reason] = want.get(gap.reason, 0) + sum(len(inside(gap, name)) for name in due_at)
    found = made.balance({}, cut, low, high)
    assert found.gaps == want
    twice = {name for name in due_at if len(ticks := [t for g in cut for t in inside(g, name)]) != len(set(ticks))}
    blamed = {text.split()[3] for text in found.faults if "lies in two gaps" in text}
    assert blamed <= twice and bool(blamed) == bool(twice)
    days: dict[int, list[int]] = {}
    for name, ticks in due_at.items():
        for t in ticks:
            row = days.setdefault(t // DAY_MS, [0, 0, 0])
            holes = [gap for gap in cut if t in inside(gap, name)]
            row[0] += 1
            row[1] += len(holes)
            row[2] += sum(gap.reason == "asleep" for gap in holes)
    assert {day: [due, gone, asleep] for day, due, gone, asleep in by_day(made, cut, low, high) if due or gone} == days


def test_ages_are_one_row_beyond_what_is_sensible() -> None:
    rows = by_day(table_of([3600, 3600, 3600]), (), 0, 10_000 * DAY_MS)
    assert len(rows) == MAX_DAYS + 1 and sum(due for _, due, _, _ in rows) == 3 * 24 * 10_000


# --- keys


def test_a_chain_that_nobody_pinned_is_not_checked_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[object] = []
    check = keyring.check_signature
    monkeypatch.setattr(keyring, "check_signature", lambda *args: checked.append(args) or check(*args))  # type: ignore[func-returns-value]
    verifier = Verifier([OWNER.kid])
    assert verifier.feed(chain(40), "meterhouse/v1/park9/gw99/keys") is Outcome.HELD
    assert not checked and verifier.finish().failures == {"key-chain": 1}
    assert Verifier().feed(chain(40), "meterhouse/v1/park9/gw99/keys") is Outcome.TAKEN and len(checked) == 40


SMALL_ORDER = [  # the eight points, and their other encodings that a careless reader takes (RFC 8032 has one of each)
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


@pytest.mark.parametrize("encoded", SMALL_ORDER)
def test_a_key_of_small_order_is_refused(encoded: str) -> None:
    """Under some of them one and the same signature holds for any text."""
    jwk = {"crv": "Ed25519", "kty": "OKP", "x": jws.base64url(bytes.fromhex(encoded))}
    with pytest.raises(Refused, match=r"small order|RFC 8032") as refusal:
        jws.public_key("Ed25519", jwk)
    assert refusal.value.code == "key"


def test_a_gateway_whose_key_anybody_can_sign_with_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    point = bytes.fromhex(SMALL_ORDER[0])
    anybody = point + bytes(32)
    Ed25519PublicKey.from_public_bytes(point).verify(anybody, b"whatever")  # the library does not mind

    class Anybody(Key):
        def __init__(self) -> None:
            super().__init__()
            self.jwk = {"crv": "Ed25519", "kty": "OKP", "x": jws.base64url(point)}
            self.kid = jws.thumbprint(self.jwk)

        def raw_sign(self, signed: bytes) -> bytes:
            return anybody

    key = Anybody()
    verifier = Verifier([key.kid])
    assert verifier.feed(keys(key), KEYS) is Outcome.FAILED
    assert verifier.finish().failures == {"key": 1}


def respelt(name: str, change: Callable[[bytes], bytes]) -> dict[str, str]:
    jwk = Key(3, "ES256").jwk
    return {**jwk, name: jws.base64url(change(jws.unbase64url(jwk[name], name)))}


@pytest.mark.parametrize("name", ["x", "y"])
@pytest.mark.parametrize("change", [lambda raw: b"\0" + raw, lambda raw: bytes(8) + raw, lambda raw: raw[1:]])
def test_a_key_has_one_spelling(name: str, change: Callable[[bytes], bytes]) -> None:
    """With zeros in front it was one key of many thumbprints."""
    jwk = respelt(name, change)
    assert jws.thumbprint(jwk) != Key(3, "ES256").kid
    with pytest.raises(Refused, match="expected 32") as refusal:
        jws.public_key("ES256", jwk)
    assert refusal.value.code == "key"


@pytest.mark.parametrize("alg", ["Ed25519", "ES256"])
def test_a_coordinate_with_loose_bits_or_padding_is_refused(alg: str) -> None:
    jwk = Key(3, alg).jwk
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    good = last.index(jwk["x"][-1])
    for other in (jwk["x"][:-1] + last[good ^ 1], jwk["x"] + "=", jwk["x"] + "\n", " " + jwk["x"]):
        with pytest.raises(Refused, match="base64url") as refusal:
            jws.public_key(alg, {**jwk, "x": other})
        assert refusal.value.code == "key"


def test_a_coordinate_that_begins_with_zero_is_a_good_key() -> None:
    """Thirty-two bytes, the first of them 0, as one key in 256 has it."""
    key = next(key for n in range(1, 2000) if jws.unbase64url((key := Key(n, "ES256")).jwk["x"], "x")[0] == 0)
    assert jws.public_key("ES256", key.jwk).kid == key.kid


# --- what is quoted


FORGED = (
    "verified: packs: 49, readings: 10, readings in gaps: 0, redelivered packs: 0, missing packs: 0, faulty objects: 0"
)
BREAKS = ["\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\x1b[2K\r", "\u202e"]


def forgeries(mark: str) -> dict[str, bytes]:
    """Unsigned text in every place from which the report quotes."""
    name = f"park7/gw01/inv1{mark}{FORGED}{mark}"
    other = Key(4)
    return {
        "stream": json.dumps({"stream": name, "boot": "3f2a9c41d07be815", "seq": 4}).encode(),
        "stream of nobody": json.dumps({"stream": f"x{mark}{FORGED}{mark}/y/z"}).encode(),
        "gateway of keys": keys(other, gateway=f"park9/gw{mark}{FORGED}{mark}"),
        "member": ('{"a":1,' + json.dumps(f"{mark}{FORGED}{mark}") + ":1," * 2 + '"b":2}').encode(),
        "name twice": b"{" + b",".join([json.dumps(mark + FORGED + mark).encode() + b":1"] * 2) + b"}",
        "checkpoint": json.dumps({"heads": [], "gateway": f"a/b{mark}{FORGED}{mark}", "page": 1}).encode(),
        "kid": json.dumps({"gateway": "park7/gw01", "v": f"1{mark}{FORGED}{mark}", "records": []}).encode(),
        "typ": sign({"stream": "park7/gw01/inv1"}, OWNER, f"mh{mark}{FORGED}{mark}"),
    }


@pytest.mark.parametrize("mark", BREAKS)
def test_nothing_unsigned_can_forge_a_line_of_the_verdict(mark: str, tmp_path: Path) -> None:
    """Not by what is in a file, nor by its name, nor by streams.txt."""
    lines = [keys(OWNER), *Stream(key=OWNER).run(3), *forgeries(mark).values()]
    (tmp_path / f"a{mark}{FORGED}.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "streams.txt").write_text(f"inv1 {mark}{FORGED}{mark}", encoding="utf-8")
    for pins in ([], ["--trust", OWNER.kid]):
        done = CliRunner().invoke(verify, [str(tmp_path), *pins])
        assert done.exit_code == 6
        said = done.output.split("\n")
        assert not [line for line in said if line.strip().startswith("verified:")], done.output
        assert all(c.isprintable() for line in said for c in line), "one line is one line, whoever splits it"
        assert (
            said[-2].startswith("failed: ") and said[-1] == "" and sum(line.startswith("failed:") for line in said) == 1
        )
        assert said[-3].startswith("what to do: ") and said[-4].startswith("not verified: ")
        as_json = CliRunner().invoke(verify, [str(tmp_path), *pins, "--json"])
        assert as_json.exit_code == 6 and json.loads(as_json.output)["verdict"] == "failed"
        assert as_json.output.count("\n") == 1 and len(as_json.output.splitlines()) == 1
        as_json.output.encode()


def test_a_file_whose_name_is_no_text_breaks_nothing(tmp_path: Path) -> None:
    import os

    (tmp_path / os.fsdecode(b"a\xff\xfe.jsonl")).write_bytes(b"{}\n")
    for more in ([], ["--json"]):
        done = CliRunner().invoke(verify, [str(tmp_path), *more])
        assert done.exit_code == 6 and "failed" in done.output and not isinstance(done.exception, UnicodeError)


def test_what_is_quoted_is_short() -> None:
    verifier = Verifier([OWNER.kid])
    verifier.feed(keys(OWNER), KEYS)
    for value in ({"stream": "x" * 900_000}, {"stream": ["y"] * 60_000}, {"v" * 900_000: 1, "stream": 3}):
        verifier.feed(json.dumps(value).encode(), "meterhouse/v1/" + "z" * 60_000 + "/b/c/readings")
    report = verifier.finish()
    assert report.failed == 3 and len(json.dumps(report.as_dict())) < 10_000


def test_nothing_is_computed_from_files_in_which_something_was_refused(tmp_path: Path) -> None:
    """The figures' repetition parses whatever calls itself a pack."""
    deep = b'{"stream":"park7/gw01/inv1","from":' + b"[" * 100_000
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([keys(OWNER), *Stream(key=OWNER).run(3), deep]))
    done = CliRunner().invoke(verify, [str(tmp_path), "--trust", OWNER.kid, "--recompute"])
    assert done.exit_code == 6 and "not recomputed, because an object (pack, key or checkpoint) in" in done.output
    as_json = CliRunner().invoke(verify, [str(tmp_path), "--trust", OWNER.kid, "--recompute", "--json"])
    assert json.loads(as_json.output)["recomputed"] is None
