"""SQLite drops the last transactions of a damaged WAL without a word. What was committed and is gone is noticed, stated
lost, and no sequence is given twice.

A process that is killed is played by copying its files while it has them open.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.store import Resume, Store, heads, sqlite
from agent.store import store as engine
from agent.store.heads import PAGE, SLOT, HeadRecord, record_file
from agent.store.sqlite import PAGE_BYTES
from tests.kits.packs import BOOT, START_MS, Maker, Pack, stored

CAP = 64 << 20
STREAMS = [f"park7/gw01/m{n}" for n in range(3)]
FILES = ("store.db", "store.db-wal", "store.db.heads")


class Killed:
    """Files as a killed process leaves them, and what it had committed. ``left``: what may have been published."""

    def __init__(self, folder: Path, rounds: int, checkpoint: int | None, left: int = 0, past: int = 0) -> None:
        self.folder = folder
        folder.mkdir()
        self.makers = [Maker(name) for name in STREAMS]
        self.left: dict[str, int] = dict.fromkeys(STREAMS, 0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite, "CHECKPOINT_PAGES", 0)  # no checkpoint by itself
            store = Store.open(folder / "live.db", CAP, keep_delivered_s=0, destinations=["platform"])
        live, before = folder / "live.db-wal", b""
        ids = store.packs.commit([make(birth=True) for make in self.makers])
        for _ in range(past):
            ids += store.packs.commit([make() for make in self.makers])
        for n in range(rounds):
            ids += store.packs.commit([make() for make in self.makers])
            if n == rounds - 5 and past:  # pages of long ago change as well
                store.packs.commit((), {"platform": ids[: 2 * past]})
                store.prune(1 << 50)
            if n + 1 == left:
                store.mark_sent()
                self.left = {make.stream: make.seq for make in self.makers}
            if n == 9 and checkpoint == rounds - 1:  # what follows is a WAL of its own
                store.db.flush_wal()
            if n == checkpoint:
                before = live.read_bytes()
                store.db.flush_wal()
        for name in FILES:
            shutil.copy(folder / name.replace("store", "live"), folder / name)
        # SQLite writes over the frames that have come into the database, and leaves those beyond where they are
        self.wal.write_bytes(live.read_bytes() + before[live.stat().st_size :])
        store.close()

    @property
    def wal(self) -> Path:
        return self.folder / "store.db-wal"

    def again(self, folder: Path) -> Path:
        """A copy of it, to be damaged."""
        folder.mkdir(exist_ok=True)
        for name in FILES:
            shutil.copy(self.folder / name, folder / name)
        for left in folder.glob("store.db*damaged*"):
            left.unlink()
        return folder / "store.db"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Some of the commits are in the database, a dozen only in the WAL."""
    return Killed(tmp_path_factory.mktemp("killed") / "a", 20, 7, left=14)


@pytest.fixture(scope="module")
def redundant(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """The whole WAL was copied into the database just before the end."""
    return Killed(tmp_path_factory.mktemp("redundant") / "a", 20, 19)


def held(store: Store, make: Maker) -> set[int]:
    """Packs that are stored, as the bytes that were sealed."""
    here = {pack.seq: pack.data for pack in stored(store, make.stream)}
    made = {pack.seq: pack.data for pack in make.made}
    assert all(made[seq] == data for seq, data in here.items())
    return set(here)


def stated(store: Store, make: Maker) -> set[int]:
    """Sequences in the next loss events; each range ends with its hash."""
    found: set[int] = set()
    for note in store.packs.losses():
        if note.stream == make.stream:
            assert note.hash == make.made[note.last - 1].hash and note.boot == BOOT and note.from_ms <= note.to_ms
            found |= set(range(note.first, note.last + 1))
    return found


def check(store: Store, killed: Killed) -> int:
    """No loss is forgotten, and the chain continues where it was. Returns how many packs are lost."""
    if store.behind:
        store.resume_streams({})
    lost = 0
    for make in killed.makers:
        head = store.packs.heads()[make.stream]
        assert (head.seq, head.boot, head.hash) == (make.seq, BOOT, make.made[-1].hash)
        here, gone = held(store, make), stated(store, make)
        assert here | gone == set(range(1, make.seq + 1)) and not here & gone
        lost += len(gone)
    return lost


def goes_on(path: Path, killed: Killed) -> None:
    """A later run continues; its first packs state the loss, and the next start finds nothing to report."""
    store = Store.open(path, CAP, destinations=["platform"])
    assert not store.behind and store.quarantine is None
    notes = store.packs.losses()
    packs = [follower(make) for make in killed.makers]
    ids = store.packs.commit(packs, {}, [note.id for note in notes])
    assert min(ids) > max(3 * 20, 1)
    store.close()
    store = Store.open(path, CAP, destinations=["platform"])
    assert not store.behind and not store.packs.losses() and store.quarantine is None
    assert all(store.packs.heads()[pack.stream].seq == pack.seq for pack in packs)
    store.close()


def follower(make: Maker, boot: str = "aa" * 8) -> Pack:
    """The first pack of the next boot, made without changing the maker."""
    other = Maker(make.stream, boot=boot)
    other.seq, other.at_ms, other.prev = make.seq, make.at_ms, make.prev
    return other(birth=True)


# --- what is done to the WAL


def test_a_wal_that_is_cut_short_anywhere(killed: Killed, tmp_path: Path) -> None:
    """At each border of a frame, and within every fourth: every missing pack is known."""
    size, lost = killed.wal.stat().st_size, []
    frame = 24 + PAGE_BYTES
    borders = [32 + n * frame for n in range(size // frame + 1)]
    cuts = sorted({0, 31, *borders, *(at + 25 for at in borders[::4]), *(at + 2000 for at in borders[2::4])})
    for cut in [cut for cut in cuts if cut <= size]:
        path = killed.again(tmp_path / "b")
        os.truncate(path.with_name("store.db-wal"), cut)
        store = Store.open(path, CAP, destinations=["platform"])
        assert store.quarantine is None
        lost.append(check(store, killed))
        store.close()
    assert lost[-1] <= 3 and lost[0] == 36 and sorted(lost, reverse=True) == lost
    goes_on(path, killed)


@pytest.mark.parametrize("seed", range(40))
def test_a_wal_that_is_overwritten_anywhere(killed: Killed, redundant: Killed, tmp_path: Path, seed: int) -> None:
    """Also after it was copied into the database: then nothing is lost."""
    rng = random.Random(seed)
    for which in (killed, redundant):
        path = which.again(tmp_path / "b")
        wal = path.with_name("store.db-wal")
        with wal.open("r+b") as file:
            file.seek(rng.randrange(wal.stat().st_size - PAGE_BYTES))
            file.write(rng.randbytes(rng.randrange(1, PAGE_BYTES)))
        store = Store.open(path, CAP, destinations=["platform"])
        assert store.quarantine is None
        lost = check(store, which)
        assert not lost or which is killed
        store.close()
        if seed % 2 == 0:
            goes_on(path, which)


def test_a_wal_that_had_come_into_the_database_is_set_aside_where_it_is_damaged(
    redundant: Killed, tmp_path: Path
) -> None:
    """SQLite would read older pages from it over the newer ones of the file, without an error."""
    path = redundant.again(tmp_path / "b")
    wal = path.with_name("store.db-wal")
    with wal.open("r+b") as file:
        file.seek(32 + 40 * (24 + PAGE_BYTES) + 100)
        file.write(random.Random(1).randbytes(64))
    before = wal.read_bytes()
    store = Store.open(path, CAP, destinations=["platform"])
    assert not store.behind and store.quarantine is None and check(store, redundant) == 0
    (aside,) = path.parent.glob("store.db-wal.damaged-*Z")
    assert aside.read_bytes() == before
    assert not path.with_name("store.db-shm").exists()
    store.close()
    goes_on(path, redundant)


def test_a_mixture_of_older_and_newer_pages_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the WAL was not set aside first: tables do not match, or there are packs after the heads."""
    monkeypatch.setattr(engine, "set_stale_wal_aside", lambda path, record, rescue: False)
    redundant, aside = Killed(tmp_path / "a", 20, 19, past=200), 0
    for frame in range(0, redundant.wal.stat().st_size // (24 + PAGE_BYTES), 5):
        path = redundant.again(tmp_path / "b")
        with path.with_name("store.db-wal").open("r+b") as file:
            file.seek(32 + frame * (24 + PAGE_BYTES) + 100)
            file.write(random.Random(1).randbytes(64))
        store = Store.open(path, CAP, destinations=["platform"])
        aside += store.quarantine is not None
        if store.behind:
            store.resume_streams({})
        for make in redundant.makers:
            assert store.packs.heads()[make.stream].hash == make.made[-1].hash
            here, gone = held(store, make), stated(store, make)
            assert not here & gone and here | gone >= set(range(140, make.seq + 1)), "what was not confirmed"
        store.close()
        goes_on(path, redundant)
    assert aside


# --- what is known from the file, and what is not


def test_what_was_not_published_may_be_sealed_again(killed: Killed, tmp_path: Path) -> None:
    """Of packs 9 to 21, which are missing, 15 was the last that may have been published."""
    path = killed.again(tmp_path / "b")
    os.truncate(path.with_name("store.db-wal"), 0)
    store = Store.open(path, CAP, destinations=["platform"])
    assert set(store.behind) == set(STREAMS)
    for make in killed.makers:
        behind, last = store.behind[make.stream], make.made[killed.left[make.stream] - 1]
        assert killed.left[make.stream] == 15 and behind.resealable
        assert (behind.sent_ms, behind.sent_pos) == (last.to_ms, last.ring_pos)
        assert (behind.head.seq, behind.head.hash, behind.lost_first) == (21, make.made[-1].hash, 10)
    again = store.behind[STREAMS[0]]
    assert store.resume_streams({STREAMS[0]: Resume(again.sent_ms, again.sent_pos)}) == (3, 36)
    first, second = store.packs.heads()[STREAMS[0]], store.packs.heads()[STREAMS[1]]
    assert (first.seq, first.to_ms, first.ring_pos) == (21, again.sent_ms, again.sent_pos)
    assert (second.seq, second.to_ms) == (21, killed.makers[1].made[-1].to_ms)
    notes = {note.stream: note for note in store.packs.losses()}
    tenth = killed.makers[0].made[8].to_ms
    assert (notes[STREAMS[0]].from_ms, notes[STREAMS[0]].to_ms) == (tenth, again.sent_ms), "the rest comes again"
    assert (notes[STREAMS[1]].from_ms, notes[STREAMS[1]].to_ms) == (tenth, killed.makers[1].made[-1].to_ms)
    store.close()


def test_a_database_of_an_older_version_starts_without_a_report(killed: Killed, tmp_path: Path) -> None:
    """It has no such file: what a damaged WAL lost is not known."""
    path = killed.again(tmp_path / "b")
    record_file(path).unlink()
    os.truncate(path.with_name("store.db-wal"), 0)
    store = Store.open(path, CAP, destinations=["platform"])
    assert not store.behind and not store.packs.losses() and store.packs.heads()[STREAMS[0]].seq == 9
    store.close()
    assert not record_file(path).exists(), "nothing was committed"


def test_a_file_that_lags_behind_raises_no_alarm(killed: Killed, tmp_path: Path) -> None:
    """A power cut leaves it as the kernel had written it; a kill may leave it as before the last commit."""
    path = killed.again(tmp_path / "b")
    data = bytearray(record_file(path).read_bytes())
    for name in STREAMS[:2]:
        entry = HeadRecord(record_file(path)).found[name]
        at = data.index(entry.encode())
        entry.seq, entry.hash, entry.to_ms, entry.pack_id = 4, bytes(32), START_MS + 1, 7
        data[at : at + SLOT] = entry.encode()
    for torn in (data, data[: 2 * SLOT + 100], bytes(len(data)), b"", b"x" * 5000, data[:700] + b"y" * 100):
        record_file(path).write_bytes(torn)
        store = Store.open(path, CAP, destinations=["platform"])
        assert not store.behind and store.quarantine is None
        store.close()
        path = killed.again(tmp_path / "b")


def other_kernel(path: Path) -> None:
    """As after a power cut: the file is from another boot of the kernel."""
    data = bytearray(record_file(path).read_bytes())
    data[:SLOT] = heads.header(bytes(range(16)), closed=False)
    record_file(path).write_bytes(data)


def test_after_a_power_cut_heads_had_come_at_least_that_far(killed: Killed, tmp_path: Path) -> None:
    """Packs that were surely committed are stated as lost; none counts as never published."""
    path = killed.again(tmp_path / "b")
    other_kernel(path)
    os.truncate(path.with_name("store.db-wal"), 0)
    store = Store.open(path, CAP, destinations=["platform"])
    assert set(store.behind) == set(STREAMS) and not any(one.resealable for one in store.behind.values())
    assert check(store, killed) == 36
    store.close()


def test_a_wal_that_cannot_be_read_beforehand_is_left_where_it_is(killed: Killed, tmp_path: Path) -> None:
    """No space to read it, or another process has the database open: it may hold the newest packs."""
    path = killed.again(tmp_path / "b")
    path.with_name("store.db-shm").mkdir()
    found = HeadRecord(record_file(path))
    found.found = {name: entry for name, entry in found.found.items() if name == "none"}
    assert not heads.set_stale_wal_aside(path, found), "an older version's"
    assert not heads.set_stale_wal_aside(path, HeadRecord(record_file(path)))
    assert path.with_name("store.db-wal").stat().st_size == killed.wal.stat().st_size
    path.with_name("store.db-shm").rmdir()
    store = Store.open(path, CAP, destinations=["platform"])
    assert not store.behind and check(store, killed) == 0
    store.close()


@pytest.mark.parametrize("fault", ["no database", "header", "gone", "streams"])
def test_streams_of_an_unreadable_database_continue_after_the_recorded_heads(
    killed: Killed, tmp_path: Path, fault: str
) -> None:
    """After a kill the file is exact: no stream begins anew. After a power cut it may lag, and they do."""
    for cut in (False, True):
        path = killed.again(tmp_path / "b")
        if cut:
            other_kernel(path)
        if fault == "streams":
            conn = sqlite3.connect(path)
            conn.execute("DELETE FROM streams")
            conn.commit()
            conn.close()
            with path.open("r+b") as file:  # and a page that makes the start look
                file.seek(0, os.SEEK_END)
                file.seek(-PAGE_BYTES, os.SEEK_END)
                file.write(random.Random(1).randbytes(PAGE_BYTES))
        elif fault == "gone":
            path.unlink()
        else:
            text = b"this was a database once\n" * 1000
            path.with_name("store.db-wal").unlink()  # which may have the first page as well
            path.write_bytes(text if fault == "no database" else bytes(100) + path.read_bytes()[100:])
        store = Store.open(path, CAP, destinations=["platform"])
        if cut:
            assert not store.behind and not store.packs.heads()
            store.packs.commit([Maker(name, boot="cc" * 8)(birth=True) for name in STREAMS])
            assert all(head.seq == 1 for head in store.packs.heads().values())
        else:
            check(store, killed)
        store.close()
        if not cut:
            goes_on(path, killed)


def test_after_an_orderly_end_the_file_is_exact_for_any_kernel(tmp_path: Path) -> None:
    """The card breaks while the gateway is off."""
    killed = Killed(tmp_path / "a", 6, None)
    path = tmp_path / "a/live.db"
    data = bytearray(record_file(path).read_bytes())
    assert data[:SLOT] == heads.header(heads.boot_bytes(), closed=True)
    data[:SLOT] = heads.header(bytes(range(16)), closed=True)
    record_file(path).write_bytes(data)
    path.write_bytes(bytes(8192))
    store = Store.open(path, CAP, destinations=["platform"])
    assert check(store, killed) == 21
    store.close()


def test_packs_that_are_not_owed_are_not_stated_lost(tmp_path: Path) -> None:
    """The platform had confirmed it: it is lost here, not there."""
    path = tmp_path / "store.db"
    make = Maker()
    store = Store.open(path, CAP, destinations=["platform"])
    ids = store.packs.commit([make(birth=True), *(make() for _ in range(9))])
    store.packs.commit((), {"platform": ids})
    store.prune(0)
    store.packs.commit([make(), make()])
    store.close()
    path.write_bytes(b"")
    store = Store.open(path, CAP, destinations=["platform"])
    store.resume_streams({})
    (note,) = store.packs.losses()
    assert (note.first, note.last, note.from_ms) == (11, 12, make.made[9].to_ms)
    assert store.packs.heads()[make.stream].seq == 12
    store.close()


def test_a_loss_whose_statement_is_lost_is_stated_again(tmp_path: Path) -> None:
    """The platform has the pack that stated it and waits for none of these; an export needs it again."""
    path = tmp_path / "store.db"
    make = Maker()
    store = Store.open(path, CAP, destinations=["platform"])
    ids = store.packs.commit([make(birth=True), *(make() for _ in range(9))])
    store.packs.commit((), {"platform": ids})
    store.close()
    old = path.read_bytes()  # sequences 1 to 10
    store = Store.open(path, CAP, destinations=["platform"])
    store.packs.commit([make() for _ in range(5)])
    store.close()
    for last in (15, 18, 21):
        path.write_bytes(old)
        store = Store.open(path, CAP, destinations=["platform"])
        store.resume_streams({})
        (note,) = store.packs.losses()
        assert (note.first, note.last, note.from_ms) == (11, last, make.made[9].to_ms)
        ids = store.packs.commit([make(), make(), make()], stated=[note.id])
        store.packs.commit((), {"platform": ids})
        assert not store.packs.losses()
        store.close()


def test_an_older_copy_of_the_database_alone_is_noticed(killed: Killed, tmp_path: Path) -> None:
    """Yesterday's file is restored; the record beside it is today's."""
    path = killed.again(tmp_path / "b")
    store = Store.open(path, CAP, destinations=["platform"])
    store.close()
    old = path.read_bytes()
    store = Store.open(path, CAP, destinations=["platform"])
    later = [follower(make) for make in killed.makers]
    store.packs.commit(later)
    store.close()
    path.write_bytes(old)
    store = Store.open(path, CAP, destinations=["platform"])
    assert {name: one.head.seq for name, one in store.behind.items()} == dict.fromkeys(STREAMS, 22)
    store.resume_streams({})
    assert {(note.first, note.last, note.hash) for note in store.packs.losses()} == {(22, 22, p.hash) for p in later}
    store.close()


def test_another_history_is_not_taken_for_an_older_one(killed: Killed, tmp_path: Path) -> None:
    """A version without such a file ran in between and began anew: its heads are lower, and later."""
    path = killed.again(tmp_path / "b")
    path.with_name("store.db-wal").unlink()
    path.unlink()
    kept = record_file(path).read_bytes()
    record_file(path).unlink()
    store = Store.open(path, CAP, destinations=["platform"])
    store.packs.commit([Maker(name, boot="cc" * 8)(birth=True, to_ms=START_MS + 10**9) for name in STREAMS])
    store.close()
    record_file(path).write_bytes(kept)
    store = Store.open(path, CAP, destinations=["platform"])
    assert not store.behind and store.quarantine is None and store.packs.heads()[STREAMS[0]].seq == 1
    store.close()


def test_a_start_after_a_killed_start_finds_the_same(killed: Killed, tmp_path: Path) -> None:
    """A tool that opens the database of a stopped agent does not change this either."""
    path = killed.again(tmp_path / "b")
    os.truncate(path.with_name("store.db-wal"), 0)
    kept = record_file(path).read_bytes()
    for _ in range(3):
        store = Store.open(path, CAP, destinations=["platform"])
        assert set(store.behind) == set(STREAMS)
        store.close()
        assert record_file(path).read_bytes() == kept
    store = Store.open(path, CAP, destinations=["platform"])
    store.resume_streams({})
    store.close()
    store = Store.open(path, CAP, destinations=["platform"])
    assert not store.behind and store.quarantine is None and check(store, killed) == 36
    store.close()


def test_checkpoints_continue_above_the_lost_ones(tmp_path: Path) -> None:
    """A second page with a published counter would look like a rollback to every verifier."""
    from agent.checkpoint import checkpoint
    from agent.keys import create_key

    signer, path = create_key(tmp_path / "key", 1), tmp_path / "store.db"
    make, made = Maker(), list[Any]()

    def chain(store: Store, time_ms: int) -> Any:
        def after(before: Any) -> Any:
            made[:] = checkpoint(signer, "park7/gw01", store.packs.heads().values(), before, time_ms)
            return [(page.page, page.counter, page.time_ms, page.data) for page in made]

        store.documents.chain_checkpoint(after)
        return made[0]

    store = Store.open(path, CAP)
    store.packs.commit([make(birth=True)])
    first = chain(store, START_MS)
    store.close()
    old = path.read_bytes()
    store = Store.open(path, CAP)
    store.packs.commit([make()])
    second = chain(store, START_MS + 3_600_000)
    assert second.counter == first.counter + 1
    store.close()
    path.write_bytes(old)
    store = Store.open(path, CAP)
    store.resume_streams({})
    third = chain(store, START_MS + 3_700_000)
    assert third.counter > second.counter and b'"prev":null' in third.data
    fourth = chain(store, START_MS + 3_800_000)
    assert fourth.counter == third.counter + 1 and b'"prev":null' not in fourth.data
    store.close()


# --- the file itself


def test_a_sector_that_is_torn_costs_one_stream(killed: Killed, tmp_path: Path) -> None:
    path = killed.again(tmp_path / "b")
    whole = HeadRecord(record_file(path))
    assert set(whole.found) == set(STREAMS) and whole.exact and whole.last_id == 63
    data = bytearray(record_file(path).read_bytes())
    data[2 * SLOT + 30] ^= 1
    record_file(path).write_bytes(data)
    torn = HeadRecord(record_file(path))
    assert len(torn.found) == 2 and torn.exact
    assert all(torn.found[name] == whole.found[name] for name in torn.found)


@given(st.lists(st.tuples(st.integers(0, 39), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_it_records_what_was_committed_and_what_was_sent(tmp_path_factory: Any, steps: Any) -> None:
    """Any number of streams, in any order; read after a kill and after an orderly end."""
    path = tmp_path_factory.mktemp("r") / "r.heads"
    record = HeadRecord(path, b"k" * 16)
    record.begin([], {})
    seqs: dict[str, int] = {}
    gone: dict[str, int] = {}
    for number, (n, leaves, other_ring) in enumerate(steps, 1):
        name = f"park7/gw01/{'x' * n}"
        seqs[name] = seqs.get(name, 0) + 1
        ring = 5 if other_ring else (1 << 64) - 1
        pack = Pack(name, BOOT, seqs[name], number, number + 1, bytes([n]) * 32, False, b"", ring, number * 100)
        record.advance([pack], [number])
        if leaves:
            record.mark_sent()
            gone = dict(seqs)
    for closed in (False, True):
        if closed:
            record.close()
        found = HeadRecord(path, b"k" * 16)
        assert found.exact and {name: entry.seq for name, entry in found.found.items()} == seqs
        left = {name: entry.sent_seq for name, entry in found.found.items() if entry.sent_seq}
        assert left == (seqs if closed else gone), "after the end nobody says any more what leaves"
        assert HeadRecord(path, b"o" * 16).exact is closed, "another kernel"
    assert path.stat().st_size % PAGE == 0 and path.stat().st_size <= (len(seqs) + 9) * SLOT


def test_a_disk_that_fails_costs_the_file_and_not_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outdated file must not be taken for a current one: it is removed until it can be written again."""
    path, make = tmp_path / "store.db", Maker()
    store = Store.open(path, CAP)
    store.packs.commit([make(birth=True)])
    real, code = os.pwrite, errno.EIO

    def fail(*args: Any) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(heads.os, "pwrite", fail)
    store.packs.commit([make()])
    assert not record_file(path).exists()
    store.packs.commit([make()])
    monkeypatch.setattr(heads.os, "pwrite", real)
    store.packs.commit([make()])
    assert HeadRecord(record_file(path)).found[make.stream].seq == 4
    store.close()
    assert HeadRecord(record_file(path)).exact


def test_no_room_for_another_stream_keeps_what_is_known_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.db"
    makers = [Maker(f"park7/gw01/m{n}") for n in range(9)]
    store = Store.open(path, CAP)
    store.packs.commit([make(birth=True) for make in makers[:7]])
    assert record_file(path).stat().st_size == PAGE, "seven streams and the front"
    real = os.pwrite

    def full(fd: int, data: Any, at: int) -> int:
        if at >= PAGE:
            raise OSError(errno.ENOSPC, "no space")
        return real(fd, data, at)

    monkeypatch.setattr(heads.os, "pwrite", full)
    store.packs.commit([make(birth=not make.seq) for make in makers])
    found = HeadRecord(record_file(path)).found
    assert len(found) == 7 and {entry.seq for entry in found.values()} == {2}
    monkeypatch.setattr(heads.os, "pwrite", real)
    store.packs.commit([makers[0]()])
    assert len(HeadRecord(record_file(path)).found) == 9
    store.close()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    path, other = tmp_path / "store.db", tmp_path / "other"
    other.write_bytes(b"somebody else's")
    record_file(path).symlink_to(other)
    store = Store.open(path, CAP)
    store.packs.commit([Maker()(birth=True)])
    store.packs.commit([])
    store.close()
    assert other.read_bytes() == b"somebody else's"


def test_other_threads_record_what_is_sent(tmp_path: Path) -> None:
    """Uplinks call it while the writer commits: each entry stays whole, and only committed packs count as sent."""
    record = HeadRecord(tmp_path / "r.heads", b"k" * 16)
    record.begin([], {})
    makers = [Maker(f"park7/gw01/m{n}") for n in range(40)]

    def leave() -> None:
        for _ in range(20):
            record.mark_sent()

    with ThreadPoolExecutor(3) as uplinks:
        for n in range(100):
            leaving = [uplinks.submit(leave) for _ in range(3)]
            record.advance([make(birth=not make.seq) for make in makers], range(n * 40 + 1, n * 40 + 41))
            for one in leaving:
                one.result()
            found = HeadRecord(tmp_path / "r.heads", b"k" * 16).found
            assert len(found) == 40 and all(entry.sent_seq <= entry.seq == n + 1 for entry in found.values())
    record.mark_sent()
    assert {e.sent_seq for e in HeadRecord(tmp_path / "r.heads", b"k" * 16).found.values()} == {100}
    record.close()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[int, int]]]:
    """(syncs, bytes written) of the record so far."""
    sums = [0, 0]
    sync, write = os.fsync, os.pwrite

    def counting_sync(fd: int) -> None:
        sums[0] += 1
        sync(fd)

    def counting_write(fd: int, data: Any, at: int) -> int:
        sums[1] += len(data)
        return write(fd, data, at)

    monkeypatch.setattr(heads.os, "fsync", counting_sync)
    monkeypatch.setattr(heads.os, "pwrite", counting_write)
    yield lambda: (sums[0], sums[1])


def test_a_commit_costs_no_sync_and_a_page_for_every_eight_streams(
    tmp_path: Path, counted: Callable[[], tuple[int, int]]
) -> None:
    """No wait for the disk: what a killed process wrote is in the kernel."""
    record = HeadRecord(tmp_path / "r.heads")
    makers = [Maker(f"park7/gw01/m{n}") for n in range(20)]
    record.begin([], {})
    record.advance([make(birth=True) for make in makers], range(1, 21))
    syncs, before = counted()
    for n in range(10):
        record.advance([make() for make in makers], range(n, n + 20))
        record.mark_sent()
    assert counted()[0] == syncs == 1
    assert counted()[1] - before == 10 * 2 * 3 * PAGE, "once for the commit, once for what leaves"
    record.close()
