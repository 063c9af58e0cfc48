"""What the maker of a folder holds back, alters, doubles or mixes: all that the signed rest shows is named."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.cli.verify import verify
from agent.verify import Report, Verifier
from agent.verify import stream as stream_module
from agent.verify.missing import find_missing
from tests.kits.folders import CHECKPOINTS, NAMES, OLD, Files, Maker, judge, only, packs_of, whole, write
from tests.kits.signed import BOOTS, START, Key, Stream, b64, checkpoint, key_record, keys, keys_object
from tests.verify.corpus import in_parts
from tests.verify.corpus_pages import head

WHOLE = whole()
INV1 = packs_of("inv1")
Judge = Callable[[Files], Report]


@pytest.fixture
def verdict(tmp_path: Path) -> Judge:
    count = itertools.count()
    return lambda files: judge([write(files, tmp_path / str(next(count)))])


def test_the_whole_folder_holds(verdict: Judge) -> None:
    report = verdict(WHOLE)
    assert report.ok and report.lost == 3 and report.gaps > 50 and report.checkpoints == 10, report.reasons


@pytest.mark.parametrize("file", [name for name in WHOLE if name != "keys.json"])
def test_any_single_object_held_back_is_missed(file: str, verdict: Judge) -> None:
    """A birth, a part, the pack with the loss event, the last one, a page: nothing can be left out for itself."""
    for n in range(len(WHOLE[file])):
        report = verdict({**WHOLE, file: WHOLE[file][:n] + WHOLE[file][n + 1 :]})
        assert report.verdict.value == "incomplete" and not report.failed, (n, report.reasons)
        gone = json.loads(WHOLE[file][n])
        if "heads" in gone:
            assert report.reasons == [
                f"park7/gw01: page {gone['page']} of 2 is missing in checkpoint {gone['counter']}"
            ]
        elif gone["seq"] > 1:
            (hole,) = report.streams[gone["stream"]].missing
            assert hole.first <= gone["seq"] <= hole.last


@pytest.mark.parametrize("name", NAMES)
def test_an_end_of_any_length_is_missed(name: str, verdict: Judge) -> None:
    lines = WHOLE[packs_of(name)]
    last = json.loads(lines[-1])["seq"]
    for n in range(1, len(lines)):
        report = verdict({**WHOLE, packs_of(name): lines[:n]})
        reached = json.loads(lines[n - 1])["seq"]
        assert (report.verdict.value, report.missing) == ("incomplete", last - reached), n
    report = verdict({**WHOLE, packs_of(name): []})
    assert report.reasons == [
        f"park7/gw01/{name}: no pack is present, but a checkpoint says that packs up to sequence {last} exist"
    ]
    assert report.verdict.value == "incomplete" and report.withheld == [f"park7/gw01/{name}"]


@pytest.mark.parametrize("boot", BOOTS[1:3])
@pytest.mark.parametrize("names", [NAMES, ("inv1",)])
def test_a_boot_that_is_held_back_is_missed(boot: str, names: tuple[str, ...], verdict: Judge) -> None:
    report = verdict(only(WHOLE, lambda one: one.get("boot") != boot or str(one["stream"]).split("/")[2] not in names))
    assert report.verdict.value == "incomplete" and not report.failed
    assert {name for name, stream in report.streams.items() if stream.missing} == {f"park7/gw01/{n}" for n in names}


def test_a_beginning_cannot_be_told_from_what_is_no_longer_kept(verdict: Judge) -> None:
    """It is said, and who expects everything gets no `0`."""
    report = verdict(only(WHOLE, lambda one: one.get("boot") != BOOTS[0]))
    assert report.ok
    begins = "packs begin with sequence 13; an earlier checkpoint names sequence 5, so packs 6 to 12 are absent"
    assert f"park7/gw01/inv1: {begins}" in report.shortfalls()
    report = verdict(only(WHOLE, lambda one: one.get("boot") != BOOTS[0] and int(str(one.get("counter", 999))) > 102))
    assert report.ok and not [text for text in report.shortfalls() if "begin with" in text]


def test_of_an_export_of_one_device_the_others_are_not_wanted(tmp_path: Path) -> None:
    """It says so itself, where everybody can read it."""
    folder = write({**WHOLE, packs_of("gate-meter"): [], packs_of("_gateway"): []}, tmp_path / "one")
    command = [str(folder), "--trust", OLD.kid]
    done = CliRunner().invoke(verify, command)
    assert done.exit_code == 6 and "park7/gw01/gate-meter: no pack is present" in done.output
    assert "first key" in done.output and "the newest checkpoint is from 2026-11-24T0" in done.output
    (folder / "streams.txt").write_text("inv1\n")
    done = CliRunner().invoke(verify, command)
    assert done.exit_code == 0 and "the files contain only inv1, as requested" in done.output
    assert (
        "park7/gw01/gate-meter: no pack is present, but a checkpoint says that packs up to sequence 19 exist"
        in done.output
    )
    assert CliRunner().invoke(verify, [*command, "--expect-complete"]).exit_code == 6
    (folder / "streams.txt").write_text("inv1\ngate-meter\n")
    assert CliRunner().invoke(verify, command).exit_code == 6
    (folder / "streams.txt").write_bytes(b"\xff\xfe inv1")
    (folder / CHECKPOINTS).unlink()
    done = CliRunner().invoke(verify, command)
    assert done.exit_code == 0 and "there is no checkpoint, so the last packs may be missing" in done.output


def test_a_stream_that_had_ended_before_is_not_waited_for(verdict: Judge) -> None:
    """A range in which it had no pack, and one whose device was taken out."""
    made = Maker()
    made.run(3)
    made.checkpoint()
    meter = made.streams.pop("gate-meter")
    assert verdict({**made.files, packs_of("gate-meter"): []}).verdict.value == "incomplete"
    gone = {**head(meter), "retired": True}
    made.run(3)
    page = checkpoint([gone, *(head(stream) for stream in made.streams.values())], OLD, 500)
    files = {**made.files, packs_of("gate-meter"): [], CHECKPOINTS: [page]}
    assert verdict(files).ok
    late = only(files, lambda one: int(str(one.get("seq", 9))) > 3)
    birth = {"births.jsonl": [made.files[packs_of(name)][0] for name in made.streams]}
    page = checkpoint([head(meter), *(head(stream) for stream in made.streams.values())], OLD, 500)
    report = verdict({**late, **birth, CHECKPOINTS: [page]})
    assert report.ok and report.streams[meter.stream].head_seq == 3, report.reasons


def months() -> tuple[Files, Files, Files]:
    """Three exports that overlap; the first has the keys of its time."""

    def part(boots: tuple[str, ...], counters: range) -> Files:
        return only(WHOLE, lambda one: one.get("boot") in boots or one.get("counter") in counters)

    first = part(BOOTS[:1], range(101, 103))
    return {**first, "keys.json": [keys(OLD)]}, part(BOOTS[:2], range(102, 105)), part(BOOTS[1:3], range(104, 106))


def test_several_exports_at_once_hold_whatever_their_names_are(tmp_path: Path) -> None:
    """October sorts after November: files have no order among each other."""
    for n, order in enumerate(itertools.permutations(months())):
        folders = [write(files, tmp_path / f"{n}-{place}") for place, files in enumerate(order)]
        report = judge(folders)
        assert report.ok and report.checkpoints == 10 and report.redelivered > 20, (n, report.faults, report.reasons)
        assert not report.torn_checkpoints and not report.shortfalls()[0].endswith("before")
    first, _, third = months()
    report = judge([write(third, tmp_path / "a"), write(first, tmp_path / "b")])
    assert report.ok, "they lie side by side"
    last = only(third, lambda one: one.get("boot") == BOOTS[2] or "heads" in one)
    report = judge([write(last, tmp_path / "c"), write(first, tmp_path / "d")])
    assert report.verdict.value == "incomplete" and not report.failed and report.missing == 7 * 3, "one between is gone"


def test_each_checkpoint_in_a_file_of_its_own(verdict: Judge) -> None:
    """checkpoint-9.json sorts after checkpoint-10.json."""
    pages = {f"checkpoint-{n}.json": [raw] for n, raw in enumerate(WHOLE[CHECKPOINTS], 5)}
    assert verdict({**WHOLE, CHECKPOINTS: [], **pages}).ok
    assert verdict({**WHOLE, "again.jsonl": WHOLE[CHECKPOINTS]}).ok
    assert verdict({**WHOLE, CHECKPOINTS: WHOLE[CHECKPOINTS][::-1]}).failures == {"counter": 8}, "lines have an order"


def test_files_in_any_order_are_chained_all_the_same(verdict: Judge) -> None:
    other = json.loads(WHOLE[CHECKPOINTS][4])
    del other["sig"]
    for change, code, text in (
        ({}, "counter", "two different checkpoints with counter 103"),
        ({"counter": 104}, "counter", "two different checkpoints with counter 104"),
        ({"counter": 106}, "chain", "signed by an older key than"),
        ({"counter": 100}, "chain", "checkpoint 101 does not follow the hash of 100"),
    ):
        page = checkpoint(**{**other, "key": OLD, "time": other["time"] + 1, **change})
        for name in ("a.json", "checkpoint-0.json", "z.json"):
            report = verdict({**WHOLE, name: [page]})
            told = [fault.reason for fault in report.faults]
            assert report.failures.keys() <= {code, "chain"} and any(text in one for one in told), (name, told)


def test_a_witness_of_long_ago_finds_a_history_that_was_written_anew(tmp_path: Path) -> None:
    """The owner of the key makes other packs and other checkpoints; one page that somebody kept is enough."""
    true, false = Maker(), Maker()
    for made in (true, false):
        made.run(3)
    true.counter = 1000
    kept = true.checkpoint()
    false.add("inv1", false.streams["inv1"].gap(10))
    for _ in range(30):
        true.run(1)
        false.run(1)
        false.checkpoint()
    false.files[CHECKPOINTS] = false.files[CHECKPOINTS][2:]
    export = write(false.files, tmp_path / "export")
    assert judge([export]).ok
    true.run(1)
    later = true.checkpoint()
    for name in ("a", "z"):
        report = judge([export, write({"checkpoint.json": kept[1:]}, tmp_path / name)])
        assert not report.failed, "before the two histories part they agree"
        report = judge([export, write({"checkpoint.json": later[1:]}, tmp_path / name)])
        assert report.verdict.value == "failed"


@pytest.mark.parametrize("last", [True, False])
def test_of_many_heads_enough_are_kept(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs from one head differs from all later ones, so every second of the older ones will do."""
    kept = list[int]()

    def spy(history: Any, tables: Any, losses: Any, heads: Any, made: Any) -> None:
        kept.append(len(heads))
        find_missing(history, tables, losses, heads, made)

    monkeypatch.setattr(stream_module, "MAX_HEADS", 16)
    monkeypatch.setattr(stream_module, "find_missing", spy)
    stream = Stream()
    packs, pages = stream.run(2), list[bytes]()
    other = Stream()
    other.run(2)
    other.gap(10)
    for counter in range(1, 201):
        packs.append(stream.pack())
        other.pack()
        pages.append(checkpoint([head(stream if counter < 100 or last else other)], OLD, 2 * counter))
    verifier = Verifier([OLD.kid])
    for raw in (keys(OLD), *pages):
        verifier.feed(raw)
    verifier.report()
    assert 8 <= kept[-1] <= 16
    for raw in packs:
        verifier.feed(raw)
    report = verifier.finish()
    assert report.verdict.value == ("verified" if last else "failed"), report.reasons
    if not last:
        assert "has a different hash" in report.reasons[0]


def test_a_gateway_that_states_more_than_a_thousand_losses_is_verified() -> None:
    """Its store stayed full for a day: each pack states what was dropped for it."""
    stream, count = Stream(), 1500
    packs, begun = stream.run(2), stream.at
    stream.seq, stream.prev, stream.at = 2 + count, b64(b"x" * 32), begun + 10 * count
    dropped = [
        {"boot": stream.boot, "event": "loss", "first": 3 + n, "from": begun + 10 * n, "hash": b64(b"x" * 32),
         "last": 3 + n, "reason": "size_cap", "t": stream.at, "to": begun + 10 * n + 10}
        for n in range(count)
    ]  # fmt: skip
    packs += [stream.pack(events=dropped[n : n + 100]) for n in range(0, count, 100)]
    verifier = Verifier([OLD.kid])
    for raw in (keys(OLD), *packs):
        verifier.feed(raw)
    report = verifier.finish()
    assert report.ok and (report.lost, report.missing) == (count, 0), report.reasons


def test_a_database_that_was_restored_shows_in_the_checkpoints_alone(verdict: Judge) -> None:
    """The packs of after the backup are held back: the old checkpoint names what another boot has overtaken."""
    made = Maker()
    made.run(3)
    true = Maker()
    true.run(8)
    ahead = true.checkpoint()
    made.restart(BOOTS[1])
    for count in (2, 9):  # before and after it has come as far as the old one
        made.run(count)
        report = verdict({**made.files, CHECKPOINTS: ahead})
        assert report.verdict.value == "failed"
        assert all("rollback or clone: a checkpoint names sequence 8" in text for text in report.reasons[:3])


@pytest.mark.parametrize("count", [2, 12])
def test_a_database_that_was_lost_is_no_fault(count: int) -> None:
    """The head of before names packs that never came out; the new history passes them one day."""
    old = Stream()
    packs = old.run(4)
    old.restart(BOOTS[1])
    old.make_birth()
    old.run(4)
    first = checkpoint([head(old)], OLD, 5)
    fresh = Stream(boot=BOOTS[2], start=START + 6000)
    more = fresh.run(count)
    second = checkpoint([head(fresh)], OLD, START)
    for before in (packs, []):
        for order in itertools.permutations(([first, second], before, more)):
            verifier = Verifier([OLD.kid])
            verifier.feed(keys(OLD))
            for raw in itertools.chain(*order):
                verifier.feed(raw)
            report = verifier.finish()
            assert report.verdict.value == "incomplete" and not report.failed, report.reasons
            assert any("begins anew" in text for text in report.reasons)
            assert not report.missing, "of the new history nothing is missing"


def test_the_last_tick_wants_all_its_parts() -> None:
    """A part says of how many it is one; only while one listens the others may be on their way."""
    stream = Stream()
    packs = [*stream.run(2), *in_parts(stream)]
    for here in (2, 3):
        verifier = Verifier([OLD.kid])
        for raw in (keys(OLD), *packs[: 2 + here]):
            verifier.feed(raw)
        assert verifier.report().ok
        report = verifier.finish()
        assert report.ok is (here == 3)
        if here == 2:
            unknown = (
                "the completeness of 2 packs is unknown, because the birth pack or the rest of a split pack is missing"
            )
            assert report.reasons == [f"park7/gw01/inv1: {unknown}"]


@pytest.mark.parametrize(("begin", "end", "ok"), [(1, 3, True), (2, 3, True), (0, 1, False), (1, 2, False)])
def test_parts_at_both_ends_of_what_is_here(begin: int, end: int, ok: bool) -> None:
    """Who joins late begins in the middle of a tick; its last part is missed all the same."""
    stream = Stream()
    birth, parts = stream.make_birth(), in_parts(stream)
    verifier = Verifier([OLD.kid])
    verifier.feed(keys(OLD))
    verifier.feed(birth, stream.topic("birth"))
    for raw in parts[begin:end]:
        verifier.feed(raw)
    assert verifier.report().ok
    assert verifier.finish().ok is ok


def test_keys_of_several_folders(tmp_path: Path) -> None:
    """An older list is part of the newer one; the successor of a thief is not."""
    old, new, thief = Key(1), Key(2), Key(9)
    stream = Stream(key=old)
    packs = stream.run(2)
    for n, (first, second, failures) in enumerate(
        [
            (keys(old, new, counter=2), keys(old, counter=1), {}),
            (keys(old, counter=1), keys(old, new, counter=2), {}),
            (keys(old, new, counter=2), keys(old, thief, counter=1), {"key-chain": 1}),
            (keys(old, thief, counter=3), keys(old, new, counter=2), {"key-chain": 1}),
            (keys(old, new, counter=2), keys(old, thief, counter=2), {"counter": 1}),
        ]
    ):
        folders = [write({"keys.json": [raw]}, tmp_path / f"{n}{m}") for m, raw in enumerate((first, second))]
        assert judge([*folders, write({"a.jsonl": packs}, tmp_path / f"{n}2")]).failures == failures, n
    both = write({"keys.jsonl": [keys(old, new, counter=2), keys(old, counter=1)]}, tmp_path / "one")
    assert judge([both]).failures == {"counter": 1}, "lines of one file have an order"


@pytest.mark.parametrize("seed", range(3))
def test_lines_in_any_order_and_twice(verdict: Judge, seed: int) -> None:
    mixed = {name: [*lines, *lines] if name.startswith("packs/") else lines for name, lines in WHOLE.items()}
    for name, lines in mixed.items():
        if name.startswith("packs/"):
            random.Random(seed).shuffle(lines)
    report = verdict(mixed)
    assert report.ok and report.redelivered == report.packs, report.reasons


@pytest.mark.parametrize("name", NAMES)
def test_packs_in_the_file_of_another_stream_are_no_matter(name: str, verdict: Judge) -> None:
    """The stream is in the signature; the name of a file says nothing."""
    other = packs_of(NAMES[NAMES.index(name) - 1])
    files = {**WHOLE, other: [*WHOLE[other], *WHOLE[packs_of(name)]], packs_of(name): []}
    assert verdict(files).ok


def test_a_broker_that_holds_a_stream_back_shows_within_two_checkpoints() -> None:
    """The first checkpoint may have been retained, and the packs up to the second may have come before one listened."""
    made = Maker()
    topic = "meterhouse/v1/park7/gw01/"
    verifier = Verifier([OLD.kid])
    verifier.feed(keys(OLD), f"{topic}keys")
    for n, verdict in enumerate(("verified", "verified", "incomplete")):
        made.run(2)
        for raw in made.files[packs_of("inv1")][-2:] + made.files[packs_of("_gateway")][-2:]:
            stream = json.loads(raw)["stream"].split("/")[2]
            verifier.feed(raw, f"{topic}{stream}/readings")
        for page, raw in enumerate(made.checkpoint(), 1):
            verifier.feed(raw, f"{topic}checkpoint/{page}")
        report = verifier.finish()
        assert report.verdict.value == verdict, (n, report.reasons)
    assert report.reasons == [
        "park7/gw01/gate-meter: no pack is present, but a checkpoint says that packs up to sequence 6 exist"
    ]
    assert report.withheld == ["park7/gw01/gate-meter"]


def test_a_device_that_seals_nothing_is_not_waited_for() -> None:
    """Its head stays where it was."""
    silent, stream = Stream("inv2"), Stream()
    silent.run(3)
    verifier = Verifier([OLD.kid])
    verifier.feed(keys(OLD), "meterhouse/v1/park7/gw01/keys")
    for counter in range(7, 12):
        for raw in stream.run(2):
            verifier.feed(raw, stream.topic())
        page = checkpoint([head(stream), head(silent)], OLD, 2 * counter)
        verifier.feed(page, "meterhouse/v1/park7/gw01/checkpoint/1")
    assert verifier.finish().ok


@pytest.mark.parametrize("place", range(6))
def test_a_revocation_counts_whenever_it_comes(place: int) -> None:
    """A verifier that ran while the key was stolen took the thief's packs for good; the record says better."""
    old, new = Key(1), Key(2)
    stream = Stream(key=old)
    packs = stream.run(5)
    second = key_record(new, old, START + 1, revokes=[{"kid": old.kid, "last": {stream.stream: 3}}])
    objects = [*packs[:place], keys_object([key_record(old), second], new, 2), *packs[place:]]
    verifier = Verifier([old.kid])
    for raw in (keys(old), *objects):
        verifier.feed(raw)
    report = verifier.finish()
    assert report.verdict.value == "failed" and report.first_bad is not None
    late = "sequence 5 is signed by the key" if place == 5 else "sequence 4 is signed by the key" if place == 4 else ""
    assert report.failures == ({"revoked": 5 - max(place, 3)} if place < 5 else {})
    assert any(late in text for text in report.reasons), report.reasons


def test_what_a_thief_said_at_a_checkpoint_is_void_once_his_key_is_revoked() -> None:
    """He named packs that never were, another hash, and an end; the owner's own, lower count is believed."""
    old, new = Key(1), Key(2)
    revokes = [{"kid": old.kid, "last": {Stream().stream: 4}}]
    topic = "meterhouse/v1/park7/gw01/"
    for claim in ({"seq": 9}, {"hash": "A" * 43}, {"retired": True, "seq": 7}):
        stream = Stream(key=old)
        packs = stream.run(4)
        stream.key = new
        packs += stream.run(2)
        true = head(stream)
        lie = checkpoint([{**true, "seq": 5, **claim}], old, 1 << 40)
        verifier = Verifier([old.kid])
        record = key_record(new, old, START + 1)
        verifier.feed(keys_object([key_record(old), record], new, 2), f"{topic}keys")
        for raw in packs:
            verifier.feed(raw, stream.topic())
        verifier.feed(lie, f"{topic}checkpoint/1")
        assert not verifier.finish().ok
        third = key_record(Key(3), new, START + 2, revokes=revokes)
        verifier.feed(keys_object([key_record(old), record, third], Key(3), 3), f"{topic}keys")
        verifier.feed(checkpoint([true], Key(3), 7), f"{topic}checkpoint/1")
        report = verifier.finish()
        assert report.ok and report.streams[stream.stream].head_seq == 6, (claim, report.reasons)
        assert not report.streams[stream.stream].retired


@pytest.mark.parametrize(("hours", "said", "short"), [(1, False, False), (2, True, False), (26, True, True)])
def test_packs_that_go_on_long_after_the_newest_checkpoint(hours: int, said: bool, short: bool, tmp_path: Path) -> None:
    """Who cuts off one stream must hold back the checkpoints of after that, while the others go on."""
    made = Maker()
    made.run(3)
    made.checkpoint()
    for name in NAMES[:2]:
        stream = made.streams[name]
        made.add(name, stream.gap(hours * 3600) if stream.points else stream.pack(hours * 3600))
    folder = write(made.files, tmp_path / "cut")
    done = CliRunner().invoke(verify, [str(folder), "--trust", OLD.kid])
    assert done.exit_code == 0 and (f"the last pack ends {hours}.0 h after it" in done.output) is said, done.output
    text = f"park7/gw01: the last pack ends {hours} h after the newest checkpoint"
    assert (text in judge([folder]).shortfalls()) is short
