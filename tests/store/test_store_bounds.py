"""The store keeps its caps, reports what it dropped, and recovers from a full disk by itself."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.outbox import NOWHERE, outbox_names
from agent.store import Store, StoreError, StoreFull
from agent.store.packs import PackTable
from agent.store.retention import Retention
from agent.verify.signed import payload_hash
from tests.kits.packs import BOOT, POINTS, START_MS, Maker, Pack, bad_packs, stored

CAP = 8 << 20
DAY_MS = 86_400_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def noise(make: Maker, size: int, birth: bool = False) -> Pack:
    """A pack that does not compress, to fill a store quickly."""
    pack = make(birth)
    filler = random.Random(make.seq).randbytes(size // 2 + 1).hex().encode()[:size]
    data = pack.data.replace(b'"v":1}', b'"v":1,"w":"' + filler + b'"}')
    pack.data, pack.hash = data, payload_hash(data)
    return pack


def test_the_cap_holds_and_every_loss_is_noted(path: Path) -> None:
    """An outage of any length uses the configured space and not a byte more. # field pain 46, field pain 47"""
    store = Store.open(path, CAP, destinations=["platform"])
    makers = [Maker(f"park7/gw01/d{n}") for n in range(3)]
    store.packs.commit([make(birth=True) for make in makers])
    peak = 0
    for _ in range(50):
        store.packs.commit([noise(make, 60_000) for make in makers for _ in range(2)])
        peak = max(peak, store.usage().disk_bytes)
    assert peak <= CAP
    assert store.usage().disk_bytes > CAP // 2, "and what was granted is used"
    losses = store.packs.losses()
    assert {note.stream for note in losses} == {make.stream for make in makers}
    for note, make in zip(sorted(losses, key=lambda n: n.stream), makers, strict=True):
        assert (note.boot, note.first, note.reason) == (BOOT, 2, "size_cap"), "the birth in force stays"
        kept = [p.seq for p in stored(store, make.stream)]
        assert kept == [1, *range(note.last + 1, 102)], "all that is not noted is there"
        lost = make.made[note.last - 1]
        assert (note.hash, note.to_ms, note.from_ms) == (lost.hash, lost.to_ms, make.made[1].from_ms)
    assert store.usage().pending["platform"] == sum(1 for _ in store.packs.pending("platform", 0, 10**6, 1 << 30))
    assert bad_packs(store) == 0
    store.close()


def test_confirmed_packs_go_before_anything_is_lost(path: Path) -> None:
    store, make = Store.open(path, CAP, destinations=["platform", "regulator"]), Maker()
    confirmed: list[int] = []
    for n in range(200):
        ids = store.packs.commit([noise(make, 60_000)], {"platform": confirmed, "regulator": confirmed})
        confirmed = ids if n % 3 else []
    assert store.packs.losses() == [] and store.lost_packs == 0
    owed = [p for n, p in enumerate(make.made) if n % 3 == 0 or n == 199]
    assert [i.data for i in store.packs.pending("platform", 0, 10**6, 1 << 30)] == [p.data for p in owed]
    store.close()


def test_what_one_destination_owes_does_not_go_with_what_the_other_has(path: Path) -> None:
    store, make = Store.open(path, CAP, destinations=["platform", "regulator"]), Maker()
    confirmed: list[int] = []
    for _ in range(60):
        confirmed = store.packs.commit([noise(make, 60_000)], {"platform": confirmed})
    assert [i.data for i in store.packs.pending("regulator", 0, 10**6, 1 << 30)] == [p.data for p in make.made]
    store.close()


def test_only_births_that_a_destination_waits_for_are_noted_as_lost(path: Path) -> None:
    """After many starts, an outage that filled the store declared delivered births lost, in signed events."""
    store, make = Store.open(path, CAP, destinations=["platform", "regulator"]), Maker()
    owed = 5  # a birth that one destination has not confirmed
    for _ in range(20):
        ids = store.packs.commit([make(birth=True), make()])
        store.packs.commit((), {"platform": ids, "regulator": [number for number in ids if number != owed]})
    delivered = make.seq
    while not store.packs.losses():
        store.packs.commit([noise(make, 60_000)])
    notes = store.packs.losses()
    assert [(note.first, note.reason) for note in notes] == [(owed, "size_cap"), (delivered + 1, "size_cap")]
    assert (notes[0].last, notes[0].hash) == (owed, make.made[owed - 1].hash)
    kept = [pack.seq for pack in stored(store, make.stream)]
    assert kept == [delivered - 1, *range(notes[1].last + 1, make.seq + 1)], "the birth in force stays"
    assert store.lost_packs == 1 + notes[1].last - delivered
    assert store.usage().pending == {"platform": len(kept) - 1, "regulator": len(kept) - 1}
    assert bad_packs(store) == 0
    store.close()


def test_a_loss_that_a_delivered_birth_stated_is_not_stated_again(path: Path) -> None:
    store, make = Store.open(path, CAP, destinations=["platform"]), Maker()
    ids = store.packs.commit([make(birth=True)])
    while not (notes := store.packs.losses()):
        ids += store.packs.commit([noise(make, 60_000)])
    ids += store.packs.commit([make(birth=True)], stated=[note.id for note in notes])
    ids += store.packs.commit([make(birth=True)])
    store.packs.commit((), {"platform": ids})
    delivered = make.seq
    while not (notes := store.packs.losses()):
        store.packs.commit([noise(make, 60_000)])
    assert [note.first for note in notes] == [delivered + 1]
    store.close()


def test_what_a_smaller_cap_costs_is_counted(path: Path) -> None:
    store, make = Store.open(path, 2 * CAP, destinations=["platform"]), Maker()
    store.packs.commit([make(birth=True)])
    while store.usage().disk_bytes < 3 * CAP // 2:
        store.packs.commit([noise(make, 60_000) for _ in range(4)])
    assert store.lost_packs == 0
    store.change_limits(CAP, 0, ["platform"], START_MS)
    losses = store.prune(START_MS)
    assert store.lost_packs == sum(note.last - note.first + 1 for note in losses) > 0
    assert store.usage().pending == {"platform": len(make.made) - store.lost_packs}
    store.close()


def test_a_clean_up_that_was_rolled_back_is_made_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk failed while it deleted: what it had searched was skipped until the next start."""
    store, make = Store.open(path, CAP, 86_400, ["platform"]), Maker(step_ms=3_600_000)
    store.packs.commit((), {"platform": store.packs.commit([make() for _ in range(60)])})

    def fail(self: Retention) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch, pytest.raises(StoreError):
        patch.setattr(Retention, "delete_old_hashes", fail)
        store.prune(START_MS + 50 * 3_600_000)
    assert len(list(stored(store, make.stream))) == 60
    store.prune(START_MS + 50 * 3_600_000)
    assert len(list(stored(store, make.stream))) == 60 - 25
    store.close()


def test_room_that_a_failed_commit_made_is_made_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The confirmed packs were back, and behind the place where the next search for them began."""
    store, make = Store.open(path, CAP, destinations=["platform"]), Maker()
    confirmed = store.packs.commit([noise(make, 16_000) for _ in range(250)])
    store.packs.commit([make(birth=True)], {"platform": confirmed})
    freed: list[int] = []

    def fail_to_insert(self: PackTable, rows: object) -> None:
        freed.append(store.retention.free_confirmed(10**6))
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch, pytest.raises(StoreError):
        patch.setattr(PackTable, "_insert", fail_to_insert)
        store.packs.commit([noise(make, 16_000)])
    with store.db.transaction():
        assert store.retention.free_confirmed(10**6) == freed[0] == 250
    store.close()


def test_a_destination_that_is_gone_holds_up_nothing(path: Path) -> None:
    """Its packs count as confirmed once they are old or space is needed; until then it may come back."""
    store, make = Store.open(path, CAP, 86_400, ["platform", "gone"]), Maker(step_ms=3_600_000)
    ids = store.packs.commit([make() for _ in range(30)], {})
    store.close()
    store = Store.open(path, CAP, 86_400, ["platform"])
    store.packs.commit((), {"platform": ids})
    store.prune(START_MS + 30 * 3_600_000)
    assert len(list(stored(store, make.stream))) == 25 and store.packs.losses() == []
    store.close()
    store = Store.open(path, CAP, 86_400, ["platform", "gone"])
    assert len(store.packs.pending("gone")) == 25
    store.close()


def test_a_destination_that_a_reload_removes_holds_up_nothing(path: Path) -> None:
    """The searches for confirmed packs had passed its packs: they stayed for ever, or counted as lost."""
    store, make = Store.open(path, CAP, 86_400, ["platform", "gone"]), Maker(step_ms=3_600_000)
    ids: list[int] = []
    while not (lost := store.lost_packs):
        ids = store.packs.commit([noise(make, 60_000)], {"platform": ids})
    store.packs.commit((), {"platform": ids})
    notes = store.packs.losses()
    store.change_limits(CAP, 86_400, ["platform"], START_MS)
    for _ in range(len(make.made) - 20):  # so many fit under the cap, if all confirmed packs are deleted
        store.packs.commit([noise(make, 60_000)])
    assert store.lost_packs == lost and store.packs.losses() == notes
    store.close()


def test_old_packs_of_a_destination_that_a_reload_removes_are_deleted(path: Path) -> None:
    store, make = Store.open(path, CAP, 86_400, ["platform", "gone"]), Maker(step_ms=3_600_000)
    store.packs.commit((), {"platform": store.packs.commit([make() for _ in range(60)])})
    store.prune(make.at_ms)
    assert len(stored(store, make.stream)) == 60
    store.change_limits(CAP, 86_400, ["platform"], make.at_ms)
    store.prune(make.at_ms)
    assert len(stored(store, make.stream)) == 25 and store.packs.losses() == []
    store.close()


def test_a_loss_is_stated_once_and_again_when_the_statement_is_lost(path: Path) -> None:
    store, make = Store.open(path, CAP, destinations=["platform"]), Maker()
    store.packs.commit([make(birth=True)])
    while not (notes := store.packs.losses()):
        store.packs.commit([noise(make, 60_000)])
    store.packs.commit([noise(make, 60_000)], stated=[notes[0].id])
    stated_in = make.seq
    assert store.packs.losses() == []
    store.close()
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.packs.losses() == [], "a kill does not make it state twice"
    while not (more := store.packs.losses()):
        store.packs.commit([noise(make, 60_000)])
    assert len(more) == 1 and (more[0].first, more[0].last > notes[0].last) == (2, True), "joined, not a second one"
    store.packs.commit([noise(make, 60_000)], stated=[more[0].id])
    while next(p.seq for p in stored(store, make.stream, 2)) <= stated_in:
        store.packs.commit([noise(make, 60_000)], stated=[n.id for n in store.packs.losses()])
    store.close()
    with closing(sqlite3.connect(path)) as conn:
        (again,) = conn.execute("SELECT first, last FROM losses").fetchall()
    assert again[0] == 2 and again[1] >= stated_in


def test_a_loss_that_nobody_stated_survives_a_kill(path: Path) -> None:
    store, make = Store.open(path, CAP, destinations=["platform"]), Maker()
    while not (notes := store.packs.losses()):
        store.packs.commit([noise(make, 60_000)])
    killed = path.parent / "killed"  # its files as a process that is killed leaves them
    shutil.copytree(path.parent, killed)
    store.close()
    again = Store.open(killed / path.name, CAP, destinations=["platform"])
    assert again.packs.losses() == notes
    again.close()


def test_delivered_packs_go_after_their_time_and_births_stay_with_their_packs(path: Path) -> None:
    store, make = Store.open(path, CAP, keep_delivered_s=86_400, destinations=["platform"]), Maker(step_ms=3_600_000)
    days = []
    for _ in range(4):
        days.append(store.packs.commit([make(birth=True), *(make() for _ in range(24))]))
    everything = [n for day in days for n in day]
    store.packs.commit((), {"platform": [n for n in everything if n != days[1][5]]})
    now = START_MS + 4 * DAY_MS + 1
    store.prune(now)
    store.prune(now)

    def left() -> list[int]:
        return [pack.id for pack in stored(store, make.stream)]

    assert left() == [days[1][0], days[1][5], *days[3]], "of day 2 a pack that is owed, and the birth that explains it"
    assert store.packs.losses() == []
    store.packs.commit((), {"platform": [days[1][5]]})
    store.prune(now)
    store.prune(now)
    assert left() == days[3]
    assert [p.data for p in stored(store, make.stream)] == [p.data for p in make.made[-25:]]
    store.prune(now + 40 * DAY_MS)
    assert [b.data for b in store.packs.births()] == [make.made[75].data], "the birth in force never goes"
    ids = store.packs.commit([make()])
    assert ids == [101], "and an id is never given twice"
    store.close()
    again = Store.open(path, CAP, destinations=["platform"])
    assert again.packs.commit([make()]) == [102]
    again.close()


def test_hashes_and_dictionaries_go_although_the_birth_of_a_removed_device_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That birth is the oldest pack for ever. All hashes of births and all dictionaries that came after it stayed."""
    monkeypatch.setattr("agent.store.packs.RETRAIN_AFTER", 64)
    monkeypatch.setattr("agent.store.codec.Codec.is_better", lambda codec, raw, samples: True)
    store = Store.open(path, CAP, keep_delivered_s=3600, destinations=["platform"])
    removed, make = Maker("park7/gw01/removed"), Maker()
    everything = store.packs.commit([removed(birth=True)])
    for _ in range(6):
        everything += store.packs.commit([make(birth=True)])
        for _ in range(4):
            everything += store.packs.commit([make() for _ in range(20)])

    def rows(sql: str) -> list[int]:
        return [row[0] for row in store.db.execute(sql)]

    assert len(rows("SELECT pack FROM births")) == 7 and len(rows("SELECT id FROM dictionaries")) >= 5
    owed, used = store.db.execute("SELECT birth, dictionary FROM packs WHERE id = ?", (everything[180],)).fetchone()
    store.packs.commit((), {"platform": [number for number in everything if number != everything[180]]})
    far = START_MS + 4000 * DAY_MS
    for _ in range(3):
        store.prune(far)
    newest = max(rows("SELECT id FROM dictionaries"))
    in_effect = rows("SELECT birth_pack FROM streams")
    assert len(stored(store, make.stream)) == 4, "the pack that is owed, its birth, the birth in effect, the newest"
    assert rows(f"SELECT pack FROM births WHERE pack < {owed}") == [in_effect[0]]
    assert used in rows("SELECT id FROM dictionaries") and bad_packs(store) == 0
    store.packs.commit((), {"platform": [everything[180]]})
    for _ in range(3):
        store.prune(far)
    assert rows("SELECT pack FROM births") == in_effect
    needed = rows("SELECT DISTINCT dictionary FROM packs WHERE dictionary > 0")
    assert rows("SELECT id FROM dictionaries") == sorted({*needed, newest}) and len(needed) <= 2
    store.close()
    again = Store.open(path, CAP, destinations=["platform"])
    assert bad_packs(again) == 0 and [p.data for p in stored(again, make.stream)][-1] == make.made[-1].data
    again.close()


def test_disk_use_is_flat_over_many_days(path: Path) -> None:
    """Freed space is reused; the file grows only with the packs that are kept. # field pain 56"""
    store = Store.open(path, CAP, keep_delivered_s=8 * 3600, destinations=["platform"])
    makers = [Maker(f"park7/gw01/d{n}", POINTS[:20], step_ms=600_000) for n in range(10)]
    store.packs.commit([make(birth=True) for make in makers])
    confirmed: list[int] = []
    sizes = []
    for n in range(240):
        confirmed = store.packs.commit([make() for make in makers], {"platform": confirmed})
        if n % 10 == 9:
            store.prune(makers[0].at_ms)
            sizes.append(store.usage().database_bytes)
    assert max(sizes[5:]) <= max(sizes[:10]) * 1.1, sizes
    store.close()


def test_space_goes_back_to_the_disk_when_much_is_unused(path: Path) -> None:
    """The file shrinks again after an outage. # field pain 56"""
    store, make = Store.open(path, 32 << 20, keep_delivered_s=0, destinations=["platform"]), Maker(step_ms=1000)
    ids = [n for _ in range(25) for n in store.packs.commit([noise(make, 60_000) for _ in range(20)])]
    full = store.usage().database_bytes
    store.packs.commit((), {"platform": ids})
    for _ in range(20):
        store.prune(START_MS + 40 * DAY_MS)
    store.close()
    assert full > 14 << 20 and os.path.getsize(path) < full * 0.6


# --- a disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0750", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk to fill (run as root)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_nearly_full_disk_costs_only_the_room_that_new_packs_need(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each clean-up deleted 4 MiB more, although the pages of the last one were unused: no pack to replay was left."""
    store, make = Store.open(path, 256 << 20, destinations=["platform"]), Maker()
    ids = store.packs.commit([make(birth=True)])
    for _ in range(40):
        ids = store.packs.commit([noise(make, 60_000) for _ in range(10)], {"platform": ids})
    store.packs.commit([], {"platform": ids})
    monkeypatch.setattr("agent.store.store.free_bytes", lambda path: 1 << 20)  # another program fills the disk
    before = len(stored(store, make.stream))
    store.prune(0)
    left = len(stored(store, make.stream))
    assert 1 < left < before and store.db.free_pages * 4096 >= 4 << 20
    for _ in range(5):
        store.prune(0)
    assert len(stored(store, make.stream)) == left
    store.packs.commit([noise(make, 60_000) for _ in range(10)])  # from now on, some unused pages are in use again
    store.prune(0)
    assert store.db.free_pages * 4096 >= 4 << 20


def test_a_full_disk_pauses_and_ends_by_itself(small_disk: Path) -> None:
    """A full disk is a temporary error. # field pain 46, field pain 56"""
    store, make = Store.open(small_disk / "store.db", 24 << 20, destinations=["platform"]), Maker()
    store.packs.commit([make(birth=True)])
    filler = small_disk / "somebody-elses.log"
    filler.write_bytes(bytes(3 << 20))
    ids: list[int] = []
    with pytest.raises(StoreFull, match="disk is full") as caught:
        for _ in range(1000):
            ids += store.packs.commit([noise(make, 30_000)])
    assert caught.value.retry and "resumes by itself" in str(caught.value)
    lost = make.made.pop()
    make.seq, make.prev = lost.seq - 1, None
    assert store.packs.heads()[make.stream].seq == make.seq and bad_packs(store) == 0
    # nothing is confirmed: pruning must not drop anything, nor fail
    store.prune(START_MS)
    assert len(store.packs.pending("platform", 0, 10**6, 1 << 30)) == len(ids) + 1 and store.packs.losses() == []
    with pytest.raises(StoreFull):
        for _ in range(1000):
            ids += store.packs.commit([noise(make, 30_000)])
    make.seq -= 1
    # confirmations still go in, although the disk is full, and make room for new packs
    store.packs.commit((), {"platform": ids[: len(ids) // 2]})
    store.prune(START_MS)
    assert store.packs.commit([noise(make, 30_000)])
    filler.unlink()
    store.prune(START_MS)
    assert store.usage().ballast_bytes > 0, "the reserve is back"
    for _ in range(20):
        store.packs.commit([noise(make, 30_000)])
    assert bad_packs(store) == 0 and store.packs.losses() == []
    store.close()


def test_a_disk_that_is_full_to_the_last_byte(small_disk: Path) -> None:
    """SQLite itself never runs out of space: the reserve is released first, and nothing is damaged."""
    store, make = Store.open(small_disk / "store.db", 24 << 20, destinations=["platform"]), Maker()
    ids = store.packs.commit([make(birth=True), *(noise(make, 30_000) for _ in range(60))])
    filler = small_disk / "somebody-elses.log"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    with pytest.raises(StoreFull):
        store.packs.commit([noise(make, 30_000)])
    make.seq -= 1
    store.packs.commit((), {"platform": ids})
    store.prune(START_MS)
    assert store.packs.commit([noise(make, 30_000)]), "confirmed packs made room inside the file"
    assert bad_packs(store) == 0
    store.close()
    again = Store.open(small_disk / "store.db", 24 << 20, destinations=["platform"])
    assert bad_packs(again) == 0
    again.close()


def test_there_is_no_shared_memory_file(tmp_path: Path) -> None:
    """A full disk has no room for one, so the agent did not start. It was created by a read before the lock."""
    for _ in range(2):
        store = Store.open(tmp_path / "store.db", 64 << 20)
        store.documents.register_tables(1, [(0, "park7/gw01/m1", {"points": []})])
        assert {path.name for path in tmp_path.iterdir()} == {"store.db", "store.db-wal", "store.db.ballast"}
        store.close()


def test_without_a_destination_nothing_counts_as_confirmed(path: Path) -> None:
    """Packs do not go after ``keep_delivered``, and at the size limit each lost one is stated."""
    store, make = Store.open(path, CAP, 86_400, outbox_names([])), Maker(step_ms=3_600_000)
    store.packs.commit([noise(make, 60_000) for _ in range(30)])
    store.prune(START_MS + 1000 * 3_600_000)
    assert len(list(stored(store, make.stream))) == 30

    while not store.lost_packs:
        store.packs.commit([noise(make, 60_000)])

    (note,) = store.packs.losses()
    assert (note.first, note.last, note.reason) == (1, store.lost_packs, "size_cap")
    assert [pack.seq for pack in stored(store, make.stream)] == list(range(note.last + 1, make.seq + 1))
    store.close()


@pytest.mark.parametrize("restart", [True, False], ids=["by a restart", "by a reload"])
def test_the_first_destinations_get_what_was_stored_before(path: Path, restart: bool) -> None:
    store, make = Store.open(path, CAP, 86_400, outbox_names([]), START_MS), Maker()
    ids = store.packs.commit([make() for _ in range(5)])

    for destinations, at_ms in ((["one", "two"], START_MS + 1), ([], START_MS + 2), (["three"], START_MS + 3)):
        if destinations == []:
            store.packs.commit((), {"one": ids, "two": ids[:2]})
        if restart:
            store.close()
            store = Store.open(path, CAP, 86_400, outbox_names(destinations), at_ms)
        else:
            store.change_limits(CAP, 86_400, outbox_names(destinations), at_ms)
        wanted = ids if "one" in destinations else ids[2:]  # what "two" has not confirmed waits for the next one
        for name in outbox_names(destinations):
            assert [item.id for item in store.packs.pending(name)] == wanted
        assert store.usage().pending == dict.fromkeys(outbox_names(destinations), len(wanted))
    store.close()


def test_removing_the_last_destination_does_not_bring_back_what_it_confirmed(path: Path) -> None:
    store, make = Store.open(path, CAP, 86_400, ["gone", "platform"], START_MS), Maker()
    ids = store.packs.commit([make() for _ in range(5)])
    store.change_limits(CAP, 86_400, ["platform"], START_MS + 1)
    store.packs.commit((), {"platform": ids})
    store.change_limits(CAP, 86_400, outbox_names([]), START_MS + 2)
    assert store.usage().pending == {NOWHERE: 0}
    store.close()
