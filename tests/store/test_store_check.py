"""The check of the store finds damage on any page, in slices; dropped packs are stated as lost. # field pain 58"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.mounts import mount_of
from agent.store import Store, StoreDamaged, check
from agent.store.sqlite import PAGE_BYTES, build_warnings
from tests.kits.mounts import mount_point
from tests.kits.packs import Maker

CAP = 64 << 20


def sound(data: bytes) -> bool:
    return True


def filled(path: Path, packs: int = 400, streams: int = 3) -> list[Maker]:
    makers = [Maker(f"park7/gw01/d{n}") for n in range(streams)]
    store = Store.open(path, CAP, destinations=["platform", "other"])
    store.packs.commit([make(birth=True) for make in makers])
    for n in range(packs):
        store.packs.commit([make() for make in makers])
        if n % 40 == 0:
            store.documents.chain_checkpoint(
                lambda before: [(1, max([c for _, c, _ in before] or [0]) + 1, 0, b"x" * 9000)]
            )
    store.documents.register_tables(7, [(n, make.stream, {"points": ["x" * 5000]}) for n, make in enumerate(makers)])
    store.close()
    return makers


def whole(store: Store, holds: Callable[[bytes], bool] = sound) -> check.StoreCheck:
    look = store.start_check(holds)
    while look.step():
        pass
    return look


@pytest.fixture(params=["whole", "walked"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "walked":
        monkeypatch.setattr(check, "WHOLE_BYTES", 0)
    return str(request.param)


def test_a_sound_store_is_sound(tmp_path: Path, way: str) -> None:
    filled(tmp_path / "store.db", 100)
    store = Store.open(tmp_path / "store.db", CAP, destinations=["platform"])
    look = whole(store)
    assert look.packs == 303 and look.rows > 303 * 3 and not look.bad_packs
    assert not store.packs.losses() and len(store.packs.pending("platform", 0, 1000, 1 << 30)) == 303
    store.close()


def pages(path: Path) -> list[tuple[str, int]]:
    """(table or index, page) of all that SQLite's own statistics list; with the overflow pages of packs.

    Nobody can see what stands in an overflow page of something that is neither compressed nor signed.
    """
    conn = sqlite3.connect(path)
    try:
        return conn.execute(
            "SELECT name, pageno FROM dbstat WHERE pageno > 1 AND name NOT LIKE 'sqlite_auto%'"
            " AND (pagetype != 'overflow' OR name = 'packs')"
        ).fetchall()
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no dbstat to find pages with (an interpreter whose SQLite was built with it)")
    finally:
        conn.close()


def test_damage_is_found_on_whatever_page_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "WHOLE_BYTES", 0)
    path = tmp_path / "store.db"
    filled(path)
    dice = random.Random(58)
    by_name: dict[str, list[int]] = {}
    for name, page in pages(path):
        by_name.setdefault(name, []).append(page)
    assert {"packs", "packs_seq", "outbox", "checkpoints", "documents", "streams", "events_time"} <= set(by_name)
    original = path.read_bytes()
    store = Store.open(path, CAP, destinations=["platform", "other"])
    try:
        for name, numbers in by_name.items():
            if name.startswith("_"):
                continue  # the record of migrations: no reading depends on it
            for page in dice.sample(numbers, min(4, len(numbers))):
                store.db.flush_wal()  # what stands in the WAL hides what is damaged below
                with path.open("r+b") as file:
                    file.seek((page - 1) * PAGE_BYTES)
                    file.write(dice.randbytes(PAGE_BYTES))
                bad = 0
                try:
                    bad = whole(store, lambda data: True).bad_packs
                except StoreDamaged:
                    bad = 1
                assert bad, f"nothing was noticed of page {page} of {name}"
                store.close()
                for left in (path.with_name("store.db.suspect"), path.with_name("store.db-wal")):
                    left.unlink(missing_ok=True)
                path.write_bytes(original)
                store = Store.open(path, CAP, destinations=["platform", "other"])
    finally:
        store.close()


def test_a_pack_that_is_not_what_was_sealed_is_dropped_and_stated_where_it_is_owed(tmp_path: Path, way: str) -> None:
    """SQLite does not notice a bit that flipped inside a signature: the pack would be delivered forever."""
    path = tmp_path / "store.db"
    make = filled(path, 30, 1)[0]
    store = Store.open(path, CAP, destinations=["platform", "other"])
    for seq in (5, 6, 20):
        (body,) = store.db.execute("SELECT body FROM packs WHERE seq = ?", (seq,)).fetchone()
        assert body[0] in {1, 2}, "the signature lies as it is"
        store.db.execute("UPDATE packs SET body = ? WHERE seq = ?", (bytes([body[0], body[1] ^ 16]) + body[2:], seq))
    store.packs.commit((), {"platform": [20], "other": [20]})
    good = {pack.data for pack in make.made}
    assert whole(store, good.__contains__).bad_packs == 3
    notes = [(n.first, n.last, n.hash, n.reason) for n in store.packs.losses()]
    assert notes == [(5, 6, make.made[5].hash, "damaged")], "20 had been delivered to all"
    assert {p.seq for p in store.packs.after(make.stream, 0, 99, 99)} == set(range(1, 32)) - {5, 6, 20}
    assert [g.loss is None for g in store.packs.replay(make.stream, None, 5, 20).gone] == [False, True]
    assert not whole(store, good.__contains__).bad_packs
    store.close()


def test_commits_and_prunes_go_on_between_its_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "WHOLE_BYTES", 0)
    makers = filled(tmp_path / "store.db", 150)
    store = Store.open(tmp_path / "store.db", CAP, destinations=["platform"])
    look, slices = store.start_check(sound), 0
    while look.step(0.0):
        slices += 1
        if slices % 3 == 0:
            store.packs.commit([make() for make in makers], {"platform": [slices]})
        if slices % 10 == 0:
            store.prune(0)
    assert slices > 50 and look.packs >= 453
    store.close()


def test_the_end_of_a_check_is_stored(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store.db", CAP)
    assert store.checked_ms() == 0 and store.mark_checked(1_795_500_900_000) == 1_795_500_900_000
    store.close()
    store = Store.open(tmp_path / "store.db", CAP)
    assert store.checked_ms() == 1_795_500_900_000
    store.close()


def test_a_suspected_large_file_is_checked_and_set_aside_the_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd would not wait until gigabytes are read; and it may have been the disk."""
    path = tmp_path / "store.db"
    make = filled(path, 20, 1)[0]
    suspect = path.with_name("store.db.suspect")
    suspect.touch()
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is None and not suspect.exists(), "a small one is looked at"
    store.close()
    monkeypatch.setattr("agent.store.errors.CHECK_BYTES", 1000)
    suspect.write_bytes(b".")
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is None and suspect.exists()
    assert store.checked_ms() == 0, "the look at everything does not wait for its day"
    whole(store)
    assert store.mark_checked(1_795_500_900_000) == 1_795_500_900_000 and not suspect.exists()
    store.close()
    suspect.write_bytes(b"..")
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is not None and "while in use" in store.quarantine.reason
    assert [item.data for item in store.packs.pending("platform")] == [pack.data for pack in make.made]
    assert not suspect.exists()
    store.close()


@pytest.mark.parametrize(
    ("kind", "options", "word"),
    [
        ("ext4", "rw,data=writeback", "data=writeback"),
        ("ext4", "rw,barrier=0", "barrier=0"),
        ("xfs", "rw,nobarrier", "nobarrier"),
        ("f2fs", "rw,fsync_mode=nobarrier", "fsync_mode"),
        ("overlay", "rw,lowerdir=/a,upperdir=/b", "overlay"),
        ("9p", "rw,trans=virtio", "network"),
        ("nfs4", "rw", "network"),
        ("vfat", "rw", "journal"),
        ("tmpfs", "rw", "power"),
        ("ext4", "rw,data=ordered", ""),
        ("ext4", "rw,errors=remount-ro", ""),
        ("btrfs", "rw", ""),
    ],
)
def test_a_file_system_that_is_not_durable_is_named(tmp_path: Path, kind: str, options: str, word: str) -> None:
    """# field pain 58"""
    point = mount_point(tmp_path)
    info = f"22 1 0:20 / / rw - ext4 /dev/root rw\n30 22 0:40 / {point} rw,relatime - {kind} dev {options}\n"
    found = list(mount_of(tmp_path, info).weaknesses())
    assert (len(found) == 1 and word in found[0]) if word else not found


def test_a_sqlite_that_is_not_durable_is_named() -> None:
    assert build_warnings() == [], "the one that runs here"
    assert build_warnings({"THREADSAFE=1"}, (3, 46, 1)) == []
    (text,) = build_warnings({"THREADSAFE=0"}, (3, 46, 1))
    assert "THREADSAFE=0" in text
    found = build_warnings({"NO_SYNC", "OMIT_WAL"}, (3, 7, 9))
    assert len(found) == 3 and "3.7.9" in found[0]
