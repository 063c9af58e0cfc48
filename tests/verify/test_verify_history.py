"""Order: any delivery of the same packs gives the same books, and memory stays bounded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.verify.history import MAX_RUNS, RECENT, Arrival, History, PackHashes
from agent.verify.jws import base64url
from agent.verify.missing import MERGE_LOSSES, StatedLosses, find_missing, lineages
from agent.verify.pack import Loss
from agent.verify.report import StreamReport
from agent.verify.seam import ChainLink


def digest(edge_text: str) -> bytes:
    return hashlib.sha256(edge_text.encode()).digest()


def chain(boots: Sequence[int], start: int = 1, salt: str = "") -> list[tuple[ChainLink, bytes]]:
    """Packs of consecutive boots with so many packs each; the first of each is a birth, each covers 10 s."""
    made: list[tuple[ChainLink, bytes]] = []
    prev: str | None = None
    prev_boot: str | None = None
    seq, birth = start, ""
    for number, count in enumerate(boots):
        boot = f"{number:016x}"
        for n in range(count):
            sha = digest(f"{salt}{boot}/{seq}")
            text = base64url(sha)
            birth = text if n == 0 else birth
            first = n == 0
            before = prev_boot if first else None
            edge = ChainLink(boot, seq, text, prev, before, first, seq * 10, seq * 10 + 10, None, birth, first, (), 0)
            made.append((edge, sha))
            prev, seq = text, seq + 1
        prev_boot = boot
    return made


def books(history: History, losses: Sequence[Loss] = ()) -> StreamReport:
    report = StreamReport("s")
    find_missing(history, {}, losses, [], report)
    return report


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5).flatmap(
        lambda boots: st.tuples(
            st.just(boots),
            st.permutations(range(sum(boots))),
            st.sets(st.integers(0, sum(boots) - 1), max_size=5),
            st.lists(st.integers(0, sum(boots) - 1), max_size=8),
        )
    )
)
def test_any_order_with_losses_and_redeliveries(case: tuple[list[int], list[int], set[int], list[int]]) -> None:
    boots, order, dropped, again = case
    packs = chain(boots)
    deliveries = [n for n in order if n not in dropped]
    history, seen = History(), set()
    for n in [*deliveries, *(n for n in again if n not in dropped)]:
        place, faults = history.place(*packs[n])
        assert not faults
        assert place is (Arrival.DUPLICATE if n in seen else Arrival.NEW)
        seen.add(n)
    if not seen:
        return
    report = books(history)
    assert not report.conflicts and not report.restarts
    here = {n + 1 for n in seen}
    want = set(range(min(here), max(here))) - here  # the slow truth; what is outside of the ends nobody knows of
    assert {s for hole in report.missing for s in range(hole.first, hole.last + 1)} == want
    assert (report.first_seq, report.last_seq) == (min(here), max(here))
    joints = sum(1 for n in range(1, len(packs)) if {n, n + 1} <= here and packs[n][0].boot == packs[n - 1][0].boot)
    assert sum(1 for _ in history.runs()) == len(here) - joints  # one entry per contiguous run


def test_backfill_joins_runs_and_memory_does_not_grow_with_packs() -> None:
    """A verifier that runs for days: 20,000 packs are one entry."""
    history = History()
    packs = chain([20_000])
    for edge, sha in packs[:100] + packs[200:]:
        history.place(edge, sha)
    assert sum(1 for _ in history.runs()) == 2
    for edge, sha in packs[100:200]:
        assert history.place(edge, sha) == (Arrival.NEW, [])
    assert sum(1 for _ in history.runs()) == 1
    assert history.open_ends == 1
    assert history.reordered == 100


def test_a_fork_far_in_the_past_is_found_when_the_chain_reaches_a_kept_hash() -> None:
    history = History()
    packs = chain([3 * RECENT])
    for edge, sha in packs:
        history.place(edge, sha)
    for edge, sha in packs[70:120]:  # redelivered, old: 128 is the next hash that is kept
        assert history.place(edge, sha)[0] in (Arrival.OLD_DUPLICATE, Arrival.DUPLICATE)
    assert history.uncompared == 50
    for edge, sha in packs[120:128]:
        history.place(edge, sha)
    assert history.uncompared == 0, "128 is kept, and its chain vouches for all redelivered before it"
    forged = chain([3 * RECENT], salt="clone")
    places = [history.place(edge, sha)[0] for edge, sha in forged[70:130]]
    assert Arrival.FORK in places


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"from_ms": 35}, "5 ms"),
        ({"birth": "x" * 43}, "names birth"),
        ({"first": True}, "prev_boot in a pack that is not the first of its boot"),
        ({"part": (2, 3)}, "part 2 of 3 without the part before"),
        ({"signer": -1}, "older key"),
    ],
)
def test_a_seam_that_does_not_fit_is_found_in_either_order(change: dict[str, object], text: str) -> None:
    packs = chain([5])
    edge, sha = packs[2]
    bad = (replace(edge, **change), sha)  # type: ignore[arg-type]
    for order in ([packs[0], packs[1], bad, packs[3]], [packs[3], bad, packs[1], packs[0]]):
        history, found = History(), []
        for one in order:
            found += history.place(*one)[1]
        blamed = {other.seq for other, _ in found}
        assert 3 in blamed
        assert any(text.replace("5 ms", "0.005 s after") in reason for _, reason in found)


def test_a_rollback_is_found_whoever_comes_first() -> None:
    mine = chain([6])
    clone = chain([3, 4])[3:]
    clone = [(replace(e, boot="f" * 16, prev_boot=mine[0][0].boot if e.first else None), sha) for e, sha in clone]
    for order in (mine + clone, mine[:3] + clone + mine[3:], clone + mine):
        history = History()
        for edge, sha in order:
            history.place(edge, sha)
        assert any("rollback or clone" in text for text in books(history).conflicts)


def test_a_history_that_begins_anew_is_a_line_of_its_own() -> None:
    history = History()
    fresh = [
        (replace(e, boot="e" * 16, from_ms=e.from_ms + 1000, to_ms=e.to_ms + 1000), s) for e, s in chain([3], salt="b")
    ]
    for edge, sha in chain([4]) + fresh:
        history.place(edge, sha)
    report = books(history)
    assert len(lineages(history)) == 2
    assert len(report.restarts) == 1 and not report.conflicts and not report.missing


@pytest.mark.parametrize(("first", "last", "lost", "missing"), [(4, 6, 3, 0), (3, 9, 3, 0), (4, 5, 2, 1), (6, 6, 1, 2)])
def test_loss_events_cover_holes_and_no_more(first: int, last: int, lost: int, missing: int) -> None:
    packs = chain([9])
    history = History()
    for edge, sha in packs[:3] + packs[6:]:
        history.place(edge, sha)
    loss = Loss(packs[0][0].boot, first, last, first * 10, last * 10 + 10, packs[last - 1][0].hash, "disk")
    report = books(history, [loss])
    assert (report.lost_packs, report.missing_packs) == (lost, missing)
    assert not report.conflicts


def stated(packs: Sequence[tuple[ChainLink, bytes]], dropped: Sequence[int], reason: str = "size_cap") -> list[Loss]:
    """A loss for each of the dropped packs."""
    return [
        Loss(packs[0][0].boot, seq, seq, seq * 10, seq * 10 + 10, packs[seq - 1][0].hash, reason) for seq in dropped
    ]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_any_number_of_stated_losses_counts_as_lost_and_is_kept_in_bounds(step: int) -> None:
    """Only the last thousand were kept: of a store that stays full, the packs of the others counted as missing."""
    packs = chain([9000])
    dropped = [seq for seq in range(2, 9000) if step == 1 or seq % step]
    history, losses = History(), StatedLosses()
    gone = set(dropped)
    for edge, sha in packs:
        if edge.seq not in gone:
            history.place(edge, sha)
    for loss in stated(packs, dropped):
        losses.add([loss])
        assert len(losses) <= 2 * MAX_RUNS
    report = StreamReport("s")
    find_missing(history, {}, losses, [], report)
    first = next(history.runs()).first.seq  # of more runs than are kept, the oldest are forgotten
    assert report.missing_packs == 0 and not report.conflicts
    assert report.lost_packs == sum(seq > first for seq in dropped)


def test_losses_are_merged_only_if_they_are_many_and_only_those_of_one_reason() -> None:
    packs = chain([3000])
    losses = StatedLosses()
    losses.add(few := stated(packs, range(2, 2 + MERGE_LOSSES)))
    assert list(losses) == few
    losses.add(stated(packs, [1500, 1502]))
    losses.add(stated(packs, range(2000, 1 + 3000), "damaged"))
    found = [(loss.first, loss.last, loss.from_ms, loss.to_ms, loss.hash, loss.reason) for loss in losses]
    ends = [(2, 1001, "size_cap"), (1500, 1500, "size_cap"), (1502, 1502, "size_cap"), (2000, 3000, "damaged")]
    assert found == [(a, b, a * 10, b * 10 + 10, packs[b - 1][0].hash, reason) for a, b, reason in ends]


def test_each_hole_looks_only_at_its_own_losses() -> None:
    """With as many holes and losses as are kept, the report on one stream took seconds."""
    looked = 0

    class Counted(Loss):
        def __getattribute__(self, name: str) -> Any:
            nonlocal looked
            looked += 1
            return super().__getattribute__(name)

    packs, history = chain([1000]), History()
    for edge, sha in packs[::2]:
        history.place(edge, sha)
    names = [field.name for field in fields(Loss)]
    losses = [Counted(*(getattr(loss, name) for name in names)) for loss in stated(packs, range(2, 1000, 2))]
    report = books(history, losses)
    assert report.lost_packs == 499 and not report.missing_packs
    assert looked < 499 * 30


def test_of_a_merged_loss_only_the_time_of_the_hole_counts() -> None:
    """The packs after the hole arrived, although the gateway had dropped them: their time is not lost."""
    packs = chain([9])
    history = History()
    for edge, sha in packs[:3] + packs[5:]:
        history.place(edge, sha)
    report = books(history, [Loss(packs[0][0].boot, 2, 8, 20, 90, packs[7][0].hash, "size_cap")])
    assert [(hole.first, hole.last, hole.from_ms, hole.to_ms) for hole in report.lost] == [(4, 5, 40, 60)]


def test_a_torn_stream_costs_no_more_than_the_cap() -> None:
    history = History()
    packs = chain([3 * MAX_RUNS])
    for edge, sha in packs[::2]:
        history.place(edge, sha)
    assert sum(1 for _ in history.runs()) <= MAX_RUNS
    assert history.open_ends <= 2 * MAX_RUNS
    assert any("no longer listed" in text for text in books(history).restarts)


def test_a_box_that_restarts_all_the_time_costs_no_more_than_the_cap() -> None:
    history = History()
    for edge, sha in chain([2] * (MAX_RUNS + 500)):
        assert history.place(edge, sha) == (Arrival.NEW, [])
    assert sum(1 for _ in history.runs()) <= MAX_RUNS
    report = books(history)
    assert not report.missing and not report.conflicts and not report.restarts
    first = chain([2])[0]
    assert history.place(*first)[0] is Arrival.OLD_DUPLICATE, "a forgotten boot is no new one"


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5000)), max_size=200))
def test_kept_hashes_are_never_wrong(packs: list[tuple[int, int]]) -> None:
    hashes = PackHashes()
    truth: dict[tuple[int, int], bytes] = {}
    for boot, seq in packs:
        if (boot, seq) not in truth:
            truth[boot, seq] = digest(f"{boot}/{seq}")
            hashes.put(boot, seq, truth[boot, seq])
    for (boot, seq), sha in truth.items():
        assert hashes.get(boot, seq) in (None, sha[:16])


@pytest.mark.parametrize(
    ("seq", "hash_of", "conflicts", "missing"),
    [(3, 3, 0, 2), (3, 4, 1, 2), (9, 9, 0, 2), (12, 12, 0, 5), (5, 5, 0, 2), (4, 4, 0, 2), (1, 1, 0, 2)],
)
def test_heads_of_checkpoints(seq: int, hash_of: int, conflicts: int, missing: int) -> None:
    """Sequence 4 is stated lost, 5 and 6 are missing, the tail after 9 is known only from the checkpoint."""
    packs = chain([12])
    history = History()
    for edge, sha in packs[1:3] + packs[6:9]:
        history.place(edge, sha)
    report = StreamReport("s")
    loss = Loss(packs[0][0].boot, 4, 4, 40, 50, packs[3][0].hash, "disk")
    head = (packs[0][0].boot, seq, packs[hash_of - 1][0].hash, seq * 10 + 10)
    find_missing(history, {}, [loss], [head], report)
    assert (len(report.conflicts), report.missing_packs, report.lost_packs) == (conflicts, missing, 1)
