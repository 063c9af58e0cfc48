"""Pages of checkpoints: one that is held back is missing, one that is still arriving is not."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.verify import verify
from agent.verify import Report, Verifier
from agent.verify import checkpoint as checkpoint_module
from agent.verify.checkpoint import ARRIVING_MS
from agent.verify.files import read_paths
from agent.verify.live import Live
from tests.kits.signed import START, Key, Stream, checkpoint, keys
from tests.verify.corpus import Object
from tests.verify.corpus_pages import head, pages, two

PIN = Key().kid
KEYS = "meterhouse/v1/park7/gw01/keys"
MADE_MS = (START + 900) * 1000  # when checkpoint 0 of ``pages`` was made


def many(count: int) -> list[Stream]:
    made = [Stream(f"d{n:02d}") for n in range(count)]
    for stream in made:
        stream.make_birth()
    return made


def fed(objects: list[Object], *, topics: bool = True) -> Verifier:
    verifier = Verifier([PIN])
    verifier.feed(keys(Key()), KEYS)
    for topic, raw in objects:
        verifier.feed(raw, topic if topics else None)
    return verifier


def torn(report: Report) -> list[tuple[int, list[int]]]:
    return [(one.counter, one.missing) for one in report.torn_checkpoints]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_whatever_pages_are_held_back_of_whatever_checkpoint_of_a_folder(sizes: list[int], data: st.DataObject) -> None:
    """The number of pages grows and shrinks; a checkpoint that is held back whole cannot be known."""
    streams, want = many(5), list[tuple[int, list[int]]]()
    before, kept = list[Object](), list[Object]()
    for counter, size in enumerate(sizes, 7):
        made = pages([head(stream) for stream in streams[:size]], counter, before)
        before = made
        gone = data.draw(st.sets(st.integers(1, size)))
        kept += [one for n, one in enumerate(made, 1) if n not in gone]
        if 0 < len(gone) < size:
            want.append((counter, sorted(gone)))
    report = fed(kept, topics=False).finish()
    assert sorted(torn(report)) == want and not report.failed, report.reasons
    by_page = sorted(kept, key=lambda one: json.loads(one[1])["page"])  # a file for each page is as good
    assert sorted(torn(fed(by_page, topics=False).finish())) == want


def test_on_a_broker_the_newest_one_counts() -> None:
    """Checkpoint 8 was replaced page by page before anybody saw all of it; 9 is whole."""
    heads = [head(stream) for stream in many(3)]
    eight = pages(heads, 8)
    nine = pages(heads, 9, eight)
    report = fed([eight[1], *nine]).finish()
    assert not report.torn_checkpoints and report.checkpoints == 4
    assert torn(fed([eight[1], *nine[:2]]).finish()) == [(9, [3])]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_pages_that_arrive_one_by_one_are_no_alarm(order: tuple[int, ...]) -> None:
    """A running agent replaces the pages of checkpoint 8 by those of 9; somebody asks after each."""
    heads = [head(stream) for stream in many(3)]
    eight = pages(heads, 8)
    nine = pages(heads, 9, eight)
    verifier = fed(eight)
    now_ms = MADE_MS + 9_000
    assert not verifier.report(now_ms).torn_checkpoints
    here = []
    for n in order:
        topic, raw = nine[n]
        verifier.feed(raw, topic)
        here.append(n)
        assert not verifier.report(now_ms).torn_checkpoints, "still arriving"
        late = verifier.report(now_ms + ARRIVING_MS)
        gone = [n + 1 for n in range(3) if n not in here]
        assert torn(late) == ([(9, gone)] if gone else [])


@pytest.mark.parametrize("here", [1, 2])
def test_who_joins_while_pages_are_replaced_sees_a_mixture_and_no_fault(here: int) -> None:
    heads = [head(stream) for stream in many(3)]
    eight = pages(heads, 8)
    nine = pages(heads, 9, eight)
    for retained in itertools.permutations([*nine[:here], *eight[here:]]):
        verifier = fed(list(retained))
        assert not verifier.report(MADE_MS + 9_000).torn_checkpoints
        for topic, raw in nine[here:]:
            verifier.feed(raw, topic)
        assert not verifier.finish().torn_checkpoints


def test_a_page_held_back_for_long_shows_while_the_next_checkpoint_arrives() -> None:
    """The second page never comes: each new first page is no excuse for the one before."""
    heads = [head(stream) for stream in many(2)]
    eight = pages(heads, 8)
    verifier = fed(eight[:1])
    nine = pages(heads, 9, eight)
    for counter, made in ((9, nine), (10, pages(heads, 10, nine))):
        topic, raw = made[0]
        verifier.feed(raw, topic)
        assert torn(verifier.report(MADE_MS + 1000 * counter)) == [(counter - 1, [2])]
        assert torn(verifier.finish()) == [(counter, [2])]
    verifier = fed([eight[0], pages(heads, 7)[1]])
    verifier.feed(nine[0][1], nine[0][0])
    assert torn(verifier.report(MADE_MS + 9_000)) == [(8, [2])]


def test_an_older_page_that_comes_after_a_newer_one_tells_of_its_checkpoint() -> None:
    """Retained pages come in any order: the third one is missing since checkpoint 8, whichever page is read first."""
    heads = [head(stream) for stream in many(3)]
    eight = pages(heads, 8)
    nine = pages(heads, 9, eight)
    for retained in itertools.permutations([nine[0], eight[1]]):
        assert torn(fed(list(retained)).report(MADE_MS + 9_000)) == [(8, [3])]


def test_the_packs_own_time_tells_as_well_that_a_page_is_late() -> None:
    """No clock of ours is needed: the gateway has gone on for minutes after it made the first page."""
    stream, other = Stream(), Stream("inv2")
    birth, other_birth = stream.make_birth(), other.make_birth()
    first = pages([head(other), head(stream)], 1)[0]
    verifier = fed([(stream.topic(), birth), (other.topic(), other_birth), first])
    assert verifier.report().verdict.value == "verified"
    verifier.feed(stream.gap(901 + ARRIVING_MS / 1000), stream.topic())
    report = verifier.report()
    assert report.verdict.value == "incomplete"
    assert report.reasons == ["park7/gw01: page 2 of 2 is missing in checkpoint 1"]


def test_pages_of_two_gateways_are_counted_apart() -> None:
    mine, other = Stream(), Stream(key=Key(2), gateway="park7/gw02")
    objects = [keys(Key(2), gateway="park7/gw02"), keys(Key()), *mine.run(2), *other.run(2)]
    objects.append(checkpoint([head(mine)], Key(), 4, pages=2))
    objects.append(checkpoint([head(other)], Key(2), 4, gateway="park7/gw02", page=2, pages=2))
    verifier = Verifier([Key().kid, Key(2).kid])
    for raw in objects:
        verifier.feed(raw)
    report = verifier.finish()
    assert sorted(map(str, report.torn_checkpoints)) == [
        "park7/gw01: page 2 of 2 is missing in checkpoint 4",
        "park7/gw02: page 1 of 2 is missing in checkpoint 4",
    ]


@pytest.mark.parametrize("change", [{"pages": None}, {"pages": 0}, {"pages": True}, {"pages": 1001}, {"time": None}])
def test_a_page_that_does_not_say_how_many_there_are(change: dict[str, Any]) -> None:
    fields = json.loads(checkpoint([], Key()))
    del fields["sig"]
    more = {name: value for name, value in change.items() if value is not None}
    raw = checkpoint([], Key(), **more)
    if not more:
        from tests.kits.signed import sign

        raw = sign({name: value for name, value in fields.items() if name not in change}, Key(), "mh-checkpoint")
    report = fed([(None, raw)]).finish()
    assert report.failures == {"shape": 1} and report.checkpoints == 0


@pytest.mark.parametrize("digest", ["!" * 43, "é" * 43, "A" * 42 + "=", "A" * 42 + "\n"])
def test_a_head_whose_hash_is_none(digest: str) -> None:
    """The pack is here, so it would be compared."""
    stream = Stream()
    packs = [(None, raw) for raw in stream.run(2)]
    page = (None, checkpoint([{**head(stream), "hash": digest}], Key()))
    for objects in ([*packs, page], [page, *packs]):
        assert fed(objects, topics=False).finish().failures == {"shape": 1}


def test_torn_checkpoints_without_end_cost_no_more_than_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "MAX_PARTIAL", 20)
    heads = [head(stream) for stream in many(2)]
    objects, _ = two()
    verifier = fed(objects + [pages(heads, 2 * counter)[0] for counter in range(1, 41)], topics=False)
    report = verifier.finish()
    assert len(report.torn_checkpoints) == 20 and report.verdict.value == "incomplete"
    assert "further checkpoints with missing pages: 37" in report.reasons


def folder(path: Path, objects: list[Object]) -> Path:
    path.mkdir()
    (path / "keys.json").write_bytes(keys(Key()))
    lines: dict[str, list[bytes]] = {}
    for topic, raw in objects:
        parts = (topic or "").split("/")
        lines.setdefault("checkpoints" if parts[4] == "checkpoint" else parts[4], []).append(raw)
    for name, some in lines.items():
        (path / f"{name}.jsonl").write_bytes(b"\n".join(some) + b"\n")
    return path


def test_the_command_says_which_page(tmp_path: Path) -> None:
    objects, heads = two()
    eight = pages(heads, 8)
    nine = pages(heads, 9, eight)
    whole = folder(tmp_path / "whole", [*objects[1:], *eight, *nine])
    done = CliRunner().invoke(verify, [str(whole), "--trust", PIN, "--json"])
    assert done.exit_code == 0 and json.loads(done.output)["torn_checkpoints"] == []
    for n, gone in enumerate((eight[0], eight[1], nine[0], nine[1])):
        part = folder(tmp_path / str(n), [one for one in [*objects[1:], *eight, *nine] if one != gone])
        done = CliRunner().invoke(verify, [str(part), "--trust", PIN])
        page, counter = (json.loads(gone[1])[name] for name in ("page", "counter"))
        text = f"park7/gw01: page {page} of 2 is missing in checkpoint {counter}"
        assert done.exit_code == 6 and f"not verified: {text}\n" in done.output, done.output
        assert "incomplete: packs: 6," in done.output
        facts = json.loads(CliRunner().invoke(verify, [str(part), "--trust", PIN, "--json"]).output)
        told = {
            "counter": counter,
            "gateway": "park7/gw01",
            "missing": [page],
            "pages": 2,
            "time": START + 900 + counter,
        }
        assert facts["torn_checkpoints"] == [told] and facts["failed"] == 0


def test_a_folder_with_the_old_page_in_place_of_the_new_one(tmp_path: Path) -> None:
    objects, heads = two()
    eight = pages(heads, 8)
    nine = pages(heads, 9, eight)
    verifier = Verifier([PIN])
    read_paths(verifier, [folder(tmp_path / "mixed", [*objects[1:], *eight, nine[0], eight[1]])])
    report = verifier.finish()
    assert report.verdict.value == "incomplete" and torn(report) == [(9, [2])]


@pytest.mark.broker
def test_a_broker_that_holds_a_page_back(broker: Any) -> None:
    """Retained is what a late verifier gets; with the last page it is whole."""
    from contextlib import closing

    from tests.verify.test_verify_live import Publisher, wait_for

    objects, heads = two()
    eight = pages(heads, 8, time=START)
    with closing(Publisher(broker.port)) as publisher:
        for topic, raw in [objects[0], *eight[:1]]:
            publisher.send(topic or "", raw, retain=True)
        for live, more in ((Live(broker.url, [PIN]), []), (Live(broker.url, [PIN]), eight[1:])):
            live.start()
            for topic, raw in [*objects[1:], *more]:
                publisher.send(topic or "", raw)
            wait_for(live, lambda c: c[0] == 6)
            publisher.send("meterhouse/v1/park7/gw01/inv1/readings", b"end")
            wait_for(live, lambda c: c[2] == 1)
            assert torn(live.stop()) == ([] if more else [(8, [2])])


@pytest.mark.broker
def test_a_running_gateway_that_replaces_page_by_page_is_no_alarm(broker: Any) -> None:
    """One listens all the while, and others join after each page; by now the checkpoint is seconds old."""
    from contextlib import closing

    from tests.verify.test_verify_live import Publisher, wait_for

    objects, heads = two()
    now = int(time.time())
    eight = pages(heads, 8, time=now - 3600)
    nine = pages(heads, 9, eight, time=now)
    with closing(Publisher(broker.port)) as publisher:
        for topic, raw in [objects[0], *eight]:
            publisher.send(topic or "", raw, retain=True)
        steady = Live(broker.url, [PIN])
        steady.start()
        for n, (topic, raw) in enumerate(nine):
            publisher.send(topic or "", raw, retain=True)
            joined = Live(broker.url, [PIN])
            joined.start()
            for stream, pack in objects[1:]:
                publisher.send(stream or "", pack)
            wait_for(joined, lambda c: c[0] == 6)
            wait_for(steady, lambda c: c[0] == 6)
            assert not steady.report().torn_checkpoints and not joined.report().torn_checkpoints
            report = joined.stop()
            assert report.ok and report.checkpoints == 2, (n, report.reasons)
        publisher.send("meterhouse/v1/park7/gw01/inv1/readings", b"end")
        wait_for(steady, lambda c: c[2] == 1)
        report = steady.stop()
        assert report.checkpoints == 4 and not report.torn_checkpoints and not report.missing
